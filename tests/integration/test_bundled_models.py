"""The bundled models: what their manifests say is what a client gets, to the last image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import convserve
from convserve import manifest as m
from convserve.arrays import Images
from convserve.v1 import classification_pb2 as pb
from convserve.v1 import classification_pb2_grpc as rpc
from support.server import ServerProcess, serving

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
NAMES = ["mnist", "cifar10"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(MODELS, tmp_path_factory.mktemp("bundled")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[convserve.Client]:
    with convserve.Client(server.target) as made:
        yield made


@pytest.fixture(scope="module")
def int8_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[convserve.Client]:
    """Of a server that runs the int8 files."""
    with (
        serving(MODELS, tmp_path_factory.mktemp("int8"), "--model-variant", "int8") as running,
        convserve.Client(running.target) as made,
    ):
        yield made


def newest(name: str) -> tuple[Path, m.Manifest]:
    """Directory and manifest of the newest bundled version."""
    number = max(int(entry.name) for entry in (MODELS / name).iterdir() if entry.name.isdigit())
    return MODELS / name / str(number), m.read(MODELS / name / str(number))[0]


def sample(name: str) -> tuple[Images, np.ndarray]:
    """Real test images that lie in the repository, and their labels."""
    with np.load(ROOT / f"tests/data/{name}-sample.npz") as arrays:
        return arrays["test_images"], arrays["test_labels"]


def test_both_models_are_served(server: ServerProcess, client: convserve.Client) -> None:
    """Available, on the digests that lie in the repository."""
    assert set(server.ready["models"]) == set(NAMES)
    for model in client.models():
        directory, manifest = newest(model.name)
        assert model.default_version == manifest.version
        assert model.versions[0].digest == m.read(directory)[1]


def test_bundled_files_stay_small() -> None:
    """Under 40 MB in all."""
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 40e6


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_the_one_published(name: str) -> None:
    """Every version directory is complete and unaltered, and nothing lies there that the manifest does not list."""
    directory, manifest = newest(name)
    assert m.digest_files(directory) == manifest.files
    assert {"model.onnx", "saved_model.pb", "golden.npz", "fingerprint.pb"} <= set(manifest.files)
    assert "assets.extra/tf_serving_warmup_requests" in manifest.files


@pytest.mark.parametrize("name", NAMES)
def test_served_answers_equal_the_models(name: str, client: convserve.Client) -> None:
    """Packed real test images: the served classes and probabilities are plain onnxruntime's, image for image."""
    directory, manifest = newest(name)
    images, labels = sample(name)
    assert len(images) >= 200
    session = ort.InferenceSession(directory / m.ONNX_FILE, providers=["CPUExecutionProvider"])
    expected = session.run(["probabilities"], {"image": images})[0]
    served = client.classify_batch(images, model=name, top_k=len(manifest.labels))
    assert [one.index for one in served] == expected.argmax(1).tolist()
    for one, row in zip(served, expected, strict=True):
        assert {entry.index: entry.probability for entry in one.top} == pytest.approx(dict(enumerate(row)), abs=1e-5)
    assert np.mean([one.index == label for one, label in zip(served, labels, strict=True)]) > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_int8_files_are_served_and_agree_with_float32(
    name: str, client: convserve.Client, int8_client: convserve.Client
) -> None:
    """Nearly every class is the same; the probabilities are not, so that it is another file that answers."""
    images, _ = sample(name)
    float32 = client.classify_batch(images, model=name)
    int8 = int8_client.classify_batch(images, model=name)
    assert np.mean([one.index == other.index for one, other in zip(float32, int8, strict=True)]) > 0.95
    assert [one.probability for one in float32] != [one.probability for one in int8]


@pytest.mark.parametrize("name", NAMES)
def test_image_files_give_the_same_answers(name: str, client: convserve.Client, tmp_path: Path) -> None:
    """A PNG of the model's own size is its pixels: nothing is resized, inverted or otherwise touched."""
    images, _ = sample(name)
    paths = []
    for index, pixels in enumerate(images[:100]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(paths[-1])
    packed = client.classify_batch(images[:100], model=name)
    encoded = client.classify_batch(paths, model=name)
    assert [one.index for one in encoded] == [one.index for one in packed]
    assert [one.probability for one in encoded] == pytest.approx([one.probability for one in packed], abs=1e-5)
    assert all(one.decoding == () for one in encoded)


def test_dark_digits_on_light_paper_are_recognised(client: convserve.Client) -> None:
    """Real digits, inverted and drawn large on a sheet, as a phone would see them; the reply says what was done."""
    images, labels = sample("mnist")
    drawings = []
    for pixels in images:
        digit = Image.fromarray(255 - pixels[:, :, 0]).resize((112, 112), Image.Resampling.BICUBIC)
        sheet = Image.new("L", (320, 240), 255)
        sheet.paste(digit, (150, 60))
        drawings.append(sheet)
    answers = client.classify_batch(drawings, model="mnist")
    right = np.mean([one.index == label for one, label in zip(answers, labels, strict=True)])
    assert right > 0.93
    assert all(any("inverted" in step for step in one.decoding) for one in answers)


def test_a_real_photograph_is_classified(client: convserve.Client) -> None:
    """A colour image of another size is brought to the model's."""
    images, labels = sample("cifar10")
    large = [Image.fromarray(pixels).resize((320, 320), Image.Resampling.LANCZOS) for pixels in images[:100]]
    answers = client.classify_batch(large, model="cifar10")
    assert np.mean([one.index == label for one, label in zip(answers, labels[:100], strict=True)]) > 0.65
    assert "resized" in " ".join(answers[0].decoding)


def test_a_hopeless_deadline_is_refused_at_once(server: ServerProcess, client: convserve.Client) -> None:
    """A thousand digits take a quarter of a second; whoever leaves less time is told so, and nothing is computed."""
    manifest = newest("mnist")[1]
    images = np.zeros((1024, *manifest.input.shape), np.uint8)
    packed = pb.PackedImages(data=images.tobytes(), shape=images.shape)
    before = server.metric("convserve_rows_total", model="mnist")
    with grpc.insecure_channel(server.target) as channel:
        grpc.channel_ready_future(channel).result(10)
        classify = rpc.ClassificationServiceStub(channel).Classify
        with pytest.raises(grpc.RpcError) as refused:
            classify(pb.ClassifyRequest(model="mnist", packed=packed), timeout=0.03)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.classify(images[0], model="mnist").model_version == manifest.version  # behind it in the queue
    assert server.metric("convserve_rows_total", model="mnist") == before + 1


def _shared(*parts: str) -> Path:
    return ROOT.parent.joinpath("shared/data", *parts)


@pytest.mark.full_data
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_served_accuracy_is_the_manifests(
    name: str, client: convserve.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The whole test split through the client: as many right answers as the manifest says, to the last image."""
    manifest = newest(name)[1]
    assert _right_answers(client, name, tmp_path_factory) == round(manifest.metrics["accuracy"] * 10_000)


@pytest.mark.full_data
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_served_accuracy_of_int8_is_the_manifests(
    name: str, int8_client: convserve.Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As it was measured where the file was made; processors round an int8 product differently now and then."""
    measured = newest(name)[1].trials["int8"].accuracy
    assert _right_answers(int8_client, name, tmp_path_factory) == pytest.approx(measured * 10_000, abs=5)


def _right_answers(client: convserve.Client, name: str, factory: pytest.TempPathFactory) -> int:
    """Over the whole test split."""
    images, labels = _full_test_split(name, factory)
    assert len(images) == 10_000
    answers = client.classify_batch(images, model=name, timeout=300)
    return sum(one.index == label for one, label in zip(answers, labels.tolist(), strict=True))


def _full_test_split(name: str, factory: pytest.TempPathFactory) -> tuple[Images, np.ndarray]:
    """uint8 [10000, H, W, C] and labels, from the data directory beside the checkout."""
    pytest.importorskip("tensorflow", reason="reading the data sets needs the training extra")
    from convtrain import datasets

    directory = _shared("mnist") if name == "mnist" else _shared("cifar10-jpeg.tar.xz")
    if not directory.exists():
        pytest.skip(f"the full test split of {name} is not at hand: {directory} does not exist")
    if name == "cifar10":
        import tarfile

        unpacked = factory.mktemp("cifar10")
        with tarfile.open(directory) as archive:
            archive.extractall(unpacked, filter="data")
        directory = unpacked / "cifar10"
    _, manifest = newest(name)
    dataset = datasets.load("mnist" if name == "mnist" else "cifar10", directory, manifest.input, manifest.decode)
    return dataset.test.images, dataset.test.labels
