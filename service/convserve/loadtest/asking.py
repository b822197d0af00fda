"""What the server is asked before a run: the model's shape and labels, and the right answer for each sample.

Through grpcio, not through the client that makes the load: what both agree on is not an error of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from convserve.errors import ConfigError, ConvserveError, NotFoundError, UnavailableError
from convserve.loadtest.dialects import UNREADABLE, Dialect, Wanted
from convserve.loadtest.link import Target
from convserve.loadtest.samples import ModelFacts, Sample
from convserve.loadtest.workload import TOLERANCE, Expected

_METADATA_PATH = "/inference.GRPCInferenceService/ModelMetadata"
_MODEL_PATH = "/convserve.v1.ModelService/GetModel"
_MOST_BYTES = 64 * 2**20
_TOP_K = 3
"""Enough to see which classes are as probable as the first."""


class Asker:
    """A plain client. Close it."""

    def __init__(self, target: Target) -> None:
        """Nothing is sent yet."""
        options = [("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.max_send_message_length", _MOST_BYTES)]
        if target.tls:
            files = (target.ca_file, target.key_file, target.cert_file)
            credentials = grpc.ssl_channel_credentials(*(Path(name).read_bytes() if name else None for name in files))
            self._channel = grpc.secure_channel(target.authority, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target.authority, options)
        self._metadata = tuple(target.metadata)
        self._timeout = target.timeout

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def call(self, path: str, message: bytes) -> bytes:
        """One unary call of bytes.

        Raises:
            UnavailableError: the server cannot be reached.
            NotFoundError: the server does not know the model.
            ConvserveError: anything else that went wrong; has the status in its message.
        """
        method: Any = self._channel.unary_unary(path)
        try:
            reply: bytes = method(message, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            code, text = error.code(), f"{error.code().name}: {error.details()}"
            if code is grpc.StatusCode.UNAVAILABLE:
                raise UnavailableError(f"the server does not answer ({text})") from error
            if code is grpc.StatusCode.NOT_FOUND:
                raise NotFoundError(str(error.details())) from error
            raise ConvserveError(f"the server refused {path}: {text}") from error
        return reply

    def facts(self, wanted: Wanted) -> ModelFacts:
        """What the model takes.

        Raises:
            ConvserveError: see `call`; or the model has no version that answers, or takes no images.
        """
        if wanted.dialect == "native":
            return self._native_facts(wanted)
        from convserve.open_inference.v2 import management_pb2 as pb

        request = pb.ModelMetadataRequest(name=wanted.model, version=wanted.version)
        found = pb.ModelMetadataResponse.FromString(self.call(_METADATA_PATH, request.SerializeToString()))
        shape = tuple(found.inputs[0].shape)[1:] if found.inputs else ()
        if len(shape) != 3 or found.inputs[0].name != "image" or found.inputs[0].datatype != "UINT8":
            raise ConfigError(
                f"model: {wanted.model} takes {[(one.name, one.datatype, list(one.shape)) for one in found.inputs]};"
                " the load tester sends one input `image`, UINT8 [N, H, W, C]"
            )
        labels = tuple(found.properties["labels"].split(",")) if "labels" in found.properties else ()
        if any(one.name == "probabilities" and list(one.shape[-1:]) != [len(labels)] for one in found.outputs):
            labels = ()  # a comma in a label: the positions of those after it would be wrong
        return ModelFacts((int(shape[0]), int(shape[1]), int(shape[2])), labels)

    def _native_facts(self, wanted: Wanted) -> ModelFacts:
        from convserve.v1 import model_pb2 as pb

        reply = self.call(_MODEL_PATH, pb.GetModelRequest(name=wanted.model).SerializeToString())
        model = pb.GetModelResponse.FromString(reply).model
        known = [version for version in model.versions if len(version.input_shape) == 3]
        if not known:
            raise ConvserveError(f"model {wanted.model} has no version that was loaded")
        number = str(model.aliases.get(wanted.version) or wanted.version or model.default_version)
        chosen = next((one for one in known if str(one.version) == number), known[0])
        height, width, channels = chosen.input_shape
        return ModelFacts((height, width, channels), tuple(chosen.labels))

    def expected(self, samples: Sequence[Sample], dialect: Dialect, progress: Callable[[int], None]) -> list[Expected]:
        """Ask for one sample after the other, with nothing else under way. `progress` gets how many are done.

        Raises:
            ConvserveError: see `call`; or a reply cannot be read.
        """
        found = []
        for number, sample in enumerate(samples, 1):
            try:
                reply = self.call(dialect.path, dialect.request([sample], _TOP_K))
                found.append(_expected(dialect.ranking(reply), dialect.answer(reply).version))
            except UNREADABLE as error:
                raise ConvserveError(f"the server's reply cannot be read: {error}") from error
            progress(number)
        return found


def _expected(ranking: Sequence[tuple[int, float]], version: str) -> Expected:
    best, probability = max(ranking, key=lambda one: one[1])
    ties = [index for index, value in ranking if index != best and value >= probability - TOLERANCE]
    return Expected((best, *ties), probability, version)
