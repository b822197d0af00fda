"""What a version takes, gives and how it is batched, as messages."""

from __future__ import annotations

from collections.abc import Iterable

from convserve.manifest import INPUT_NAME
from convserve.open_inference.v2 import management_pb2 as pb
from convserve.open_inference.v2 import model_config_pb2 as config_pb
from convserve.registry import LoadedVersion
from convserve.server.open_inference.parameters import DEFAULT_PRIORITY_LEVEL, PRIORITY_LEVELS
from convserve.server.open_inference.reply import OUTPUTS
from convserve.server.pixels import BYTE_RANGE

_Tensor = pb.ModelMetadataResponse.TensorMetadata


def metadata(version: LoadedVersion, numbers: Iterable[int]) -> pb.ModelMetadataResponse:
    """Inputs and outputs of a version; `numbers` are the versions of its model that answer."""
    manifest = version.manifest
    return pb.ModelMetadataResponse(
        name=manifest.model,
        versions=[str(number) for number in sorted(numbers, reverse=True)],
        platform=_platform(version),
        inputs=[_Tensor(name=INPUT_NAME, datatype="UINT8", shape=[-1, *manifest.input.shape])],
        outputs=[_Tensor(name=name, datatype="FP32", shape=[-1, len(manifest.labels)]) for name in OUTPUTS],
        properties={
            "pixel_range": BYTE_RANGE,
            "layout": "NHWC",
            "channels": "RGB" if manifest.input.channels == 3 else "grey",
            "labels": ",".join(manifest.labels),
            "digest": version.digest,
        },
    )


def config(version: LoadedVersion) -> config_pb.ModelConfig:
    """How a version is batched, in Triton's words."""
    manifest, limits = version.manifest, version.batcher.limits
    return config_pb.ModelConfig(
        name=manifest.model,
        platform=_platform(version),
        backend="tensorflow" if _is_tensorflow(version) else "onnxruntime",
        max_batch_size=limits.max_batch_size,
        input=[
            config_pb.ModelInput(
                name=INPUT_NAME,
                data_type=config_pb.TYPE_UINT8,
                format=config_pb.ModelInput.FORMAT_NHWC,
                dims=manifest.input.shape,
            )
        ],
        output=[
            config_pb.ModelOutput(
                name=name, data_type=config_pb.TYPE_FP32, dims=[len(manifest.labels)], label_filename="labels.txt"
            )
            for name in OUTPUTS
        ],
        dynamic_batching=config_pb.ModelDynamicBatching(
            preferred_batch_size=version.batcher.allowed_batch_sizes,
            max_queue_delay_microseconds=round(limits.max_queue_delay * 1e6),
            priority_levels=PRIORITY_LEVELS,
            default_priority_level=DEFAULT_PRIORITY_LEVEL,
        ),
    )


def _is_tensorflow(version: LoadedVersion) -> bool:
    return version.runtime.variant == "saved_model"


def _platform(version: LoadedVersion) -> str:
    """Triton's name of what computes it."""
    return "tensorflow_savedmodel" if _is_tensorflow(version) else "onnxruntime_onnx"
