"""What the server is asked before a run."""

from __future__ import annotations

import pytest

from convserve.loadtest.asking import Asker
from convserve.loadtest.dialects import Wanted
from convserve.loadtest.link import parse_target
from convserve.loadtest.samples import ModelFacts
from convserve.open_inference.v2 import management_pb2
from convserve.v1 import model_pb2
from support.fake_server import running


@pytest.mark.parametrize(("wanted", "side"), [("", 32), ("2", 32), ("4", 64), ("canary", 16), ("no such", 64)])
def test_images_have_the_shape_of_the_version_that_answers(wanted: str, side: int) -> None:
    """The default one, that of the number, or that of the alias; not the highest, which may have failed."""
    versions = [
        model_pb2.ModelVersion(
            version=number, input_shape=[side, side, 3] if side else [], labels=[f"of {side}"] if side else []
        )
        for number, side in ((4, 64), (3, 0), (2, 32), (1, 16))
    ]
    with running() as fake:
        fake.models = [model_pb2.Model(name="m", versions=versions, default_version=2, aliases={"canary": 1})]
        asker = Asker(parse_target(fake.target, 30))
        try:
            assert asker.facts(Wanted("native", "m", wanted)) == ModelFacts((side, side, 3), (f"of {side}",))
        finally:
            asker.close()


@pytest.mark.parametrize(
    ("text", "labels"), [("cat,dog", ("cat", "dog")), ("cat, wild,dog", ()), (None, ())], ids=["two", "comma", "none"]
)
def test_labels_of_the_open_protocol_are_known_or_not(
    monkeypatch: pytest.MonkeyPatch, text: str | None, labels: tuple[str, ...]
) -> None:
    """A label with a comma would move all after it: accuracy would be wrong without a word."""
    reply = management_pb2.ModelMetadataResponse(name="m", properties={} if text is None else {"labels": text})
    reply.inputs.add(name="image", datatype="UINT8", shape=[-1, 4, 6, 3])
    reply.outputs.add(name="probabilities", datatype="FP32", shape=[-1, 2])
    monkeypatch.setattr(Asker, "call", lambda asker, path, message: reply.SerializeToString())
    asker = Asker(parse_target("h:1", 1))
    try:
        assert asker.facts(Wanted("oip", "m")) == ModelFacts((4, 6, 3), labels)
    finally:
        asker.close()
