"""A version appears whole, under a number of its own, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from convserve import manifest, proving, repository
from convserve.manifest import DecodePolicy, InputSpec, Parity, VariantTrial
from convserve.runtimes.onnx import OnnxRuntime
from convserve.tensorflow_serving.v1 import prediction_log_pb2
from convtrain import publish, warmup
from convtrain.architectures import Architecture, Flatten
from convtrain.calibration import Calibration
from convtrain.config import TrainingConfig
from convtrain.datasets import Dataset, Split
from convtrain.errors import PublishError
from convtrain.evaluate import Evaluation
from convtrain.export import ExportRecord
from convtrain.history import Epoch, History
from convtrain.presets import Preset
from convtrain.publish import Finished
from convtrain.runs import Data, RunRecord
from convtrain.variants import VariantRecord
from support import versions

PRESET = Preset(
    name="stripes-preset",
    summary="",
    model="stripes",
    dataset="folder",
    input=InputSpec(height=8, width=8, channels=1),
    decode=DecodePolicy(fit="crop"),
    architecture=Architecture(layers=(Flatten(),)),
    training=TrainingConfig(epochs=3, batch_size=7, validation_fraction=0.1, seed=5),
)


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """A run of the small model without TensorFlow: its ONNX file, and words in place of the SavedModel."""
    export = tmp_path / "run/export"
    (export / "variables").mkdir(parents=True)
    (export / "saved_model.pb").write_bytes(b"saved model")
    (export / "variables/variables.index").write_bytes(b"variables")
    (export / "model.onnx").write_bytes(versions.onnx_bytes())
    images = versions.random_images(200)
    split = Split(images, np.arange(200) % 4)
    data = Data(
        Dataset(name="noise", labels=tuple(versions.LABELS), train=split, test=split.take(np.arange(150))),
        train=split.take(np.arange(180)),
        validation=split.take(np.arange(180, 200)),
    )
    agreement = Parity(images=150, max_abs_diff_probabilities=1e-7, max_abs_diff_logits=1e-6, top1_disagreements=0)
    epoch = Epoch(epoch=1, loss=1, accuracy=0.5, validation_loss=1, validation_accuracy=0.5, seconds=1.25)
    return Finished(
        record=RunRecord(
            preset=PRESET,
            data_dir="/somewhere",
            check_digests=True,
            limit=None,
            command="convtrain run stripes-preset",
            frameworks={"keras": "3.15.1", "jax": "0.10.2"},
            labels=versions.LABELS,
            dataset=data.describe(),
        ),
        data=data,
        history=History(epochs=[epoch], best=1),
        calibration=Calibration(
            temperature=1.25,
            images=20,
            loss_before=1.6,
            loss_after=1.5,
            ece_before=0.1,
            ece_after=0.05,
            weights_sha256="",
        ),
        evaluation=Evaluation(
            images=150,
            correct=75,
            accuracy=0.5,
            loss=1.5,
            ece=0.04,
            ece_uncalibrated=0.08,
            per_class_accuracy={"top": 0.5},
            confusion=[],
            weights_sha256="",
        ),
        export_directory=export,
        export=ExportRecord(weights_sha256="", files=manifest.digest_files(export), parity={"onnx": agreement}),
        variants_directory=tmp_path / "run/variants",
        variants=VariantRecord(source_sha256="", trials={}, files={}),
    )


def test_a_published_version_is_complete(finished: Finished, tmp_path: Path) -> None:
    """Every file is listed and as listed, golden vectors are real images with their answers."""
    directory = publish.publish(finished, tmp_path / "models")
    assert directory == tmp_path / "models/stripes/1"
    content, _ = manifest.read(directory)
    manifest.verify_files(directory, content)
    assert content.files == manifest.digest_files(directory)
    assert content.files.keys() >= finished.export.files.keys()
    assert (content.model, content.version, content.labels) == ("stripes", 1, versions.LABELS)
    assert content.decode == PRESET.decode
    assert content.metrics == {"accuracy": 0.5, "loss": 1.5, "ece": 0.04, "ece_uncalibrated": 0.08}
    assert content.temperature == 1.25
    assert content.golden.tolerances == {"cpu": 1e-5, "cuda": 1e-4}
    assert content.training.parameters == 64 * 4 + 4
    assert content.training.seconds == pytest.approx(1.2, abs=0.1)
    assert content.training.frameworks == {"keras": "3.15.1", "jax": "0.10.2"}
    assert content.dataset == finished.data.describe()
    assert "/somewhere" not in (directory / "manifest.json").read_text()
    with np.load(directory / "golden.npz") as golden:
        assert golden["image"].shape == (64, 8, 8, 1)
        known = {image.tobytes() for image in finished.data.test.images}
        assert all(image.tobytes() in known for image in golden["image"])
        np.testing.assert_allclose(golden["probabilities"], versions.reference(golden["image"]), atol=1e-6)


def test_it_holds_requests_to_warm_up_with(finished: Finished, tmp_path: Path) -> None:
    """Where TensorFlow Serving looks for them: calls of Predict with the golden images, listed in the manifest."""
    directory = publish.publish(finished, tmp_path / "models")
    assert warmup.WARMUP_FILE in manifest.read(directory)[0].files
    with np.load(directory / "golden.npz") as golden:
        images = golden["image"]
    records = tfrecords((directory / "assets.extra/tf_serving_warmup_requests").read_bytes())
    for record, expected in zip(records, (images[:1], images), strict=True):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("stripes", "serving_default")
        assert not request.model_spec.HasField("version")
        tensor = request.inputs["image"]
        assert [dim.size for dim in tensor.tensor_shape.dim] == list(expected.shape)
        assert tensor.tensor_content == expected.tobytes()


def tfrecords(content: bytes) -> list[bytes]:
    """The records, cut by their lengths."""
    found = []
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        found.append(content[12:end])
        content = content[end + 4 :]
    return found


def with_variant(finished: Finished) -> Finished:
    """A run whose int8 file was worth it and whose optimised one was not. The file is another copy of the model."""
    finished.variants_directory.mkdir()
    (finished.variants_directory / "model.int8.onnx").write_bytes(versions.onnx_bytes(seed=1))
    trial = VariantTrial(
        published=True,
        verdict="faster here, and answers as well",
        accuracy=0.5,
        validation_loss_points=0.0,
        test_loss_points=0.1,
        max_abs_diff_probabilities=0.02,
        speedup={"1": 1.5, "64": 1.7},
        load_speedup=0.9,
        bytes=1000,
        processor="a processor",
    )
    refused = msgspec.structs.replace(trial, published=False, verdict="loads 1.05 times as fast, 1.2 is wanted")
    record = VariantRecord(
        source_sha256="",
        trials={"int8": trial, "optimized": refused},
        files=manifest.digest_files(finished.variants_directory),
    )
    return replace(finished, variants=record)


def test_a_variant_that_passed_is_part_of_the_version(finished: Finished, tmp_path: Path) -> None:
    """With a tolerance of its own for the golden images, and the verdict on those that did not pass."""
    directory = publish.publish(with_variant(finished), tmp_path / "models")
    content, _ = manifest.read(directory)
    manifest.verify_files(directory, content)
    assert content.variants == {"int8": "model.int8.onnx"}
    assert content.files.keys() >= {"model.onnx", "model.int8.onnx"}
    assert content.trials["optimized"].verdict == "loads 1.05 times as fast, 1.2 is wanted"
    tolerance = content.golden.tolerances["int8"]
    runtime = OnnxRuntime(directory, content, variant="int8")
    proving.prove(directory, content, runtime, [1, 8])
    with np.load(directory / "golden.npz") as golden:
        difference = np.abs(runtime.run(golden["image"]).probabilities - golden["probabilities"]).max()
    assert difference < tolerance < 2 * difference + 0.02
    runtime.close()


def test_a_variant_changed_after_its_trial_is_refused(finished: Finished, tmp_path: Path) -> None:
    """What is published is what was measured, to the byte."""
    changed = with_variant(finished)
    (changed.variants_directory / "model.int8.onnx").write_bytes(versions.onnx_bytes(seed=2))
    with pytest.raises(PublishError, match=r"model\.int8\.onnx: is not the file that was proved.*convtrain quantize"):
        publish.publish(changed, tmp_path / "models")
    assert publish.versions(tmp_path / "models/stripes") == []


def test_files_beside_the_versions_are_triton_s(finished: Finished, tmp_path: Path) -> None:
    """Labels one to a line; the settings name inputs and outputs without the batch dimension."""
    publish.publish(finished, tmp_path / "models")
    assert (tmp_path / "models/stripes/labels.txt").read_text() == "top\nupper\nlower\nbottom\n"
    config = (tmp_path / "models/stripes/config.pbtxt").read_text()
    for line in (
        'name: "stripes"',
        'platform: "onnxruntime_onnx"',
        "dims: [ 8, 8, 1 ]",
        "data_type: TYPE_UINT8",
        'label_filename: "labels.txt"',
        "dims: [ 4 ]",
    ):
        assert line in config


def test_numbers_go_up_and_settings_stay(finished: Finished, tmp_path: Path) -> None:
    """The next version follows the highest, whatever is missing below; tuned settings are not overwritten."""
    first = publish.publish(finished, tmp_path / "models")
    (tmp_path / "models/stripes/config.pbtxt").write_text("tuned")
    shutil.move(first, first.with_name("41"))
    assert publish.publish(finished, tmp_path / "models").name == "42"
    assert (tmp_path / "models/stripes/config.pbtxt").read_text() == "tuned"


def test_publishers_at_once_get_numbers_of_their_own(finished: Finished, tmp_path: Path) -> None:
    """Nobody overwrites anybody, and no version is half of each."""
    published: list[Path] = []
    threads = [
        threading.Thread(target=lambda: published.append(publish.publish(finished, tmp_path / "models")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in published) == ["1", "2", "3", "4", "5", "6"]
    for path in published:
        content, _ = manifest.read(path)
        assert content.version == int(path.name)
        manifest.verify_files(path, content)


def test_a_number_taken_meanwhile_is_left_alone(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename onto another's version fails, and the next number is tried."""
    publish.publish(finished, tmp_path / "models")
    look, looks = publish.versions, iter(range(4))  # two when checking, and two when claiming for the first time
    monkeypatch.setattr(publish, "versions", lambda path: look(path) if next(looks, None) is None else [])
    before = (tmp_path / "models/stripes/1/manifest.json").read_bytes()
    assert publish.publish(finished, tmp_path / "models").name == "2"
    assert (tmp_path / "models/stripes/1/manifest.json").read_bytes() == before


def test_the_first_of_two_says_what_the_model_is(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever of two publishers with other labels is later is refused, also when both found nothing at first."""
    other = replace(finished, record=msgspec.structs.replace(finished.record, labels=["a", "b", "c", "d"]))
    write = manifest.write

    def late(directory: Path, content: manifest.Manifest) -> None:
        monkeypatch.setattr(manifest, "write", write)
        publish.publish(finished, tmp_path / "models")
        write(directory, content)

    monkeypatch.setattr(manifest, "write", late)
    monkeypatch.setattr(publish, "_write_model_files", lambda *_: None)
    with pytest.raises(PublishError, match="version 1 has other labels than this run"):
        publish.publish(other, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models/stripes").iterdir()] == ["1"]


def test_nothing_is_left_of_what_failed(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while staging leaves no version and no staging directory; before that, its name is hidden."""

    def fail(directory: Path, _: manifest.Manifest) -> None:
        assert directory.name.startswith(".staging-")
        assert not (tmp_path / "models/stripes/1").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", fail)
    with pytest.raises(PublishError, match="No space left on device"):
        publish.publish(finished, tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models/stripes").iterdir()) == ["config.pbtxt", "labels.txt"]


def test_what_a_killed_publisher_left_goes_with_the_next(finished: Finished, tmp_path: Path) -> None:
    """Half a version has a hidden name that no server looks at; it is removed, unless someone is at work on it."""
    left, busy, young = (tmp_path / f"models/stripes/.staging-{name}" for name in ("left", "busy", "young"))
    for path in (left, busy, young):
        shutil.copytree(finished.export_directory, path)
    for path in (left, busy):
        os.utime(path, (0, 0))
    descriptor = os.open(busy, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    directory = publish.publish(finished, tmp_path / "models")
    os.close(descriptor)
    assert directory.name == "1"
    assert [path.exists() for path in (left, busy, young)] == [False, True, True]


def test_a_killed_publisher_leaves_nothing_beside_what_it_staged(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files half written are in the staging directory, which the next publisher removes, also those for Triton."""
    places = []
    mkstemp = tempfile.mkstemp

    def watched(prefix: str, dir: Path) -> tuple[int, str]:  # noqa: A002
        places.append(dir)
        return mkstemp(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkstemp", watched)
    directory = publish.publish(finished, tmp_path / "models")
    assert len(places) == 4
    assert all(".staging-" in str(place) for place in places)
    assert {path.name for path in directory.parent.iterdir()} == {"1", "labels.txt", "config.pbtxt"}
    assert not {"labels.txt", "config.pbtxt"} & {path.name for path in directory.iterdir()}


def test_a_file_changed_after_the_proof_is_refused(finished: Finished, tmp_path: Path) -> None:
    """What is published is what was proved, to the byte."""
    path = finished.export_directory / "model.onnx"
    altered = bytearray(path.read_bytes())
    altered[-1] ^= 1
    path.write_bytes(altered)
    with pytest.raises(PublishError, match=r"export/model\.onnx: is not the file that was proved"):
        publish.publish(finished, tmp_path / "models")
    assert publish.versions(tmp_path / "models/stripes") == []


def test_versions_of_one_model_mean_the_same(finished: Finished, tmp_path: Path) -> None:
    """Other labels or another input need another model name."""
    publish.publish(finished, tmp_path / "models")
    renamed = replace(finished, record=msgspec.structs.replace(finished.record, labels=["a", "b", "c", "d"]))
    with pytest.raises(PublishError, match=r"labels\.txt: the model's versions so far have other labels"):
        publish.check_place(renamed.record, tmp_path / "models")
    wider = PRESET.override(input=InputSpec(height=8, width=9, channels=1))
    with pytest.raises(PublishError, match="version 1 takes images of 8×8×1, this run's are 8×9×1"):
        publish.publish(
            replace(finished, record=msgspec.structs.replace(finished.record, preset=wider)), tmp_path / "models"
        )


@pytest.mark.parametrize("labels", [None, "d\xe9but\n".encode("latin-1")])
def test_labels_are_compared_without_a_readable_file_of_them(
    finished: Finished, tmp_path: Path, labels: bytes | None
) -> None:
    """The newest manifest has them too; and the way out is one that every command has."""
    model = publish.publish(finished, tmp_path / "models").parent
    model.joinpath("labels.txt").unlink()
    if labels is not None:
        model.joinpath("labels.txt").write_bytes(labels)
    other = msgspec.structs.replace(finished.record, labels=["a", "b", "c", "d"])
    with pytest.raises(PublishError, match=r"other labels than this run; .* or publish into another --model-repos"):
        publish.check_place(other, tmp_path / "models")


def test_a_repository_that_cannot_be_written_is_named(finished: Finished, tmp_path: Path) -> None:
    """And that is known before training."""
    (tmp_path / "models").write_text("a file")
    with pytest.raises(PublishError, match=r"models/stripes: cannot be written"):
        publish.check_place(finished.record, tmp_path / "models")
    (tmp_path / "unmounted").symlink_to("/nowhere/models")
    with pytest.raises(PublishError, match=r"unmounted/stripes: cannot be written, .*unmounted is not a directory"):
        publish.check_place(finished.record, tmp_path / "unmounted")


def test_a_number_that_no_server_takes_is_not_given(finished: Finished, tmp_path: Path) -> None:
    """Publishing says so, where every server would pass over the version without a word."""
    model = tmp_path / "models/stripes"
    (model / "999999999999999998").mkdir(parents=True)
    assert publish.publish(finished, tmp_path / "models").name == "999999999999999999"
    assert list(repository.scan(tmp_path / "models")["stripes"]) == [999999999999999999]
    with pytest.raises(PublishError, match="stripes/999999999999999999: no version can follow"):
        publish.publish(finished, tmp_path / "models")
    (model / "1763800000000000000").mkdir()
    with pytest.raises(PublishError, match="stripes/1763800000000000000: no version can follow"):
        publish.check_place(finished.record, tmp_path / "models")


def test_few_test_images_are_enough(finished: Finished, tmp_path: Path) -> None:
    """With less than 64 test images all of them are golden."""
    few = replace(finished.data.dataset, test=finished.data.test.take(np.arange(5)))
    directory = publish.publish(replace(finished, data=replace(finished.data, dataset=few)), tmp_path / "models")
    content, _ = manifest.read(directory)
    assert content.golden.count == 5
