"""Requests, and comparing answers with what is expected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from convserve.errors import ConfigError
from convserve.loadtest import workload
from convserve.loadtest.dialects import UNREADABLE, Answer, Dialect, Native, OpenInference, Wanted
from convserve.loadtest.samples import Sample
from convserve.loadtest.workload import Check, Expected, Mix, Prepared
from convserve.open_inference.v2 import infer_pb2
from convserve.v1 import classification_pb2 as pb


def pixels(count: int) -> list[Sample]:
    return [Sample(np.full((2, 2, 1), number % 256, np.uint8), number % 3) for number in range(count)]


EXPECTED = (Expected((1,), 0.9, "4"), Expected((2, 5), 0.4, "4"))


def compared(answer: Answer, expected: Sequence[Expected] = EXPECTED) -> Check:
    check = Check()
    check.compare(Prepared(b"", 2, (1, None), tuple(expected)), answer)
    return check


def test_right_answers_are_right() -> None:
    """The same class and probability, or one that is as probable."""
    check = compared(Answer([1, 5], [0.9000004, 0.4], "4"))
    assert (check.rows, check.wrong, check.labelled, check.right) == (2, 0, 1, 1)


@pytest.mark.parametrize(
    ("classes", "probabilities"),
    [([2, 1], [0.4, 0.9]), ([1, 3], [0.9, 0.4]), ([1, 2], [0.95, 0.4]), ([1, 2], [float("nan"), 0.4]), ([1], [0.9])],
    ids=["rows swapped", "another class", "another probability", "no number", "a row missing"],
)
def test_wrong_answers_are_wrong(classes: list[int], probabilities: list[float]) -> None:
    """Mixed-up rows above all; the first is told."""
    check = compared(Answer(classes, probabilities, "4"))
    assert check.wrong > 0
    assert check.first_wrong


def test_another_version_is_not_compared() -> None:
    """A version that came in while the load lasted may answer otherwise; such rows are counted by themselves."""
    check = compared(Answer([7, 7], [0.1, 0.1], "5"))
    assert (check.rows, check.wrong, check.other_version) == (0, 0, 2)


def test_checks_add_up() -> None:
    """Of several processes."""
    total = compared(Answer([1, 2], [0.9, 0.4], "4"))
    total.add(compared(Answer([2, 1], [0.4, 0.9], "4")))
    assert (total.rows, total.wrong, total.labelled, total.right) == (4, 2, 2, 1)


@pytest.mark.parametrize("dialect", [Native(Wanted("native", "m")), OpenInference(Wanted("oip", "m"))])
def test_every_sample_travels(dialect: Dialect) -> None:
    """With its label and the answer that is right for it, in sizes as the mix says."""
    samples = pixels(50)
    expected = [Expected((number,), 0.5, "1") for number in range(50)]
    prepared = workload.prepare(samples, expected, Mix((1, 4), (3, 1)), dialect, seed=0)
    sent = [one.classes[0] for request in prepared for one in request.expected]
    assert set(sent) == set(range(50))
    assert {request.rows for request in prepared} == {1, 4}
    assert all(request.labels == tuple(one.classes[0] % 3 for one in request.expected) for request in prepared)


@pytest.mark.parametrize(("count", "mix"), [(700, Mix((1,), (1,))), (3000, Mix((1, 4), (3, 1)))])
def test_every_one_of_many_samples_travels(count: int, mix: Mix) -> None:
    """Samples come class by class: to leave the last ones out would leave out classes."""
    prepared = workload.prepare(pixels(count), [], mix, Native(Wanted("native", "m")), seed=0)
    assert count <= sum(request.rows for request in prepared) < count + 4


def test_every_one_of_large_samples_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they take more room than is meant for requests."""
    monkeypatch.setattr(workload, "_MOST_BYTES", 1000)
    prepared = workload.prepare(pixels(50), [], Mix((1,), (1,)), Native(Wanted("native", "m")), seed=0)
    assert len(prepared) == 50


def test_native_requests_say_what_is_wanted() -> None:
    """Pixels with their shape; version or alias; the explanation."""
    message = pb.ClassifyRequest.FromString(Native(Wanted("native", "m", "3")).request(pixels(2), 3))
    assert (message.model, message.version, message.explain, message.top_k) == ("m", 3, True, 3)
    assert list(message.packed.shape) == [2, 2, 2, 1]
    assert message.packed.data == bytes([0] * 4 + [1] * 4)
    files = [Sample(b"abc", None), Sample(b"d", None)]
    message = pb.ClassifyRequest.FromString(Native(Wanted("native", "m", "stable", False)).request(files))
    assert (message.alias, message.explain, list(message.encoded.images)) == ("stable", False, [b"abc", b"d"])


def test_native_answers_tell_the_slowest_batch() -> None:
    """A request that was split waited as long as its last part."""
    reply = pb.ClassifyResponse(model_version=2)
    reply.results.add().predictions.add(index=3, probability=0.5)
    reply.batches.add(rows=8, queue_seconds=0.1, run_seconds=0.02)
    reply.batches.add(rows=4, queue_seconds=0.2, run_seconds=0.01)
    answer = Native(Wanted("native", "m")).answer(reply.SerializeToString())
    assert answer == Answer([3], [0.5], "2", 0.2, 0.0, 0.02, 8)


def test_the_open_protocol_is_spoken() -> None:
    """Raw UINT8 or BYTES with lengths; probabilities come back raw."""
    dialect = OpenInference(Wanted("oip", "m", "7"))
    message = infer_pb2.ModelInferRequest.FromString(dialect.request(pixels(2)))
    assert (message.model_name, message.model_version, message.inputs[0].datatype) == ("m", "7", "UINT8")
    message = infer_pb2.ModelInferRequest.FromString(dialect.request([Sample(b"abc", None)]))
    assert (message.inputs[0].datatype, message.raw_input_contents[0]) == ("BYTES", b"\3\0\0\0abc")
    rows = np.array([[0.1, 0.9], [0.7, 0.3]], np.float32)
    reply = infer_pb2.ModelInferResponse(model_version="7", raw_output_contents=[rows.tobytes()])
    reply.outputs.add(name="probabilities", datatype="FP32", shape=[2, 2])
    answer = dialect.answer(reply.SerializeToString())
    assert (answer.classes, answer.version) == ([1, 0], "7")
    assert answer.probabilities == pytest.approx([0.9, 0.7])
    with pytest.raises(UNREADABLE):
        dialect.answer(b"no message")
    with pytest.raises(UNREADABLE):
        Native(Wanted("native", "m")).answer(b"no message")
    with pytest.raises(ValueError, match="0 outputs"):
        dialect.answer(infer_pb2.ModelInferResponse().SerializeToString())


def test_a_mix_is_read() -> None:
    """One size, or several with weights."""
    assert workload.parse_mix("8") == Mix((8,), (1.0,))
    mix = workload.parse_mix("1:90,8:10")
    assert mix.mean == pytest.approx(1.7)
    assert str(mix) == "1:90,8:10"


@pytest.mark.parametrize(
    "text", ["", "x", "0", "1:0", "1:x", "1:", "8:1:1", "5000", "1:inf", "1:nan", "2:1,1:nan", "1:1e308,2:1e308"]
)
def test_what_is_no_mix_is_refused(text: str) -> None:
    """The error shows the form."""
    with pytest.raises(ConfigError, match="batch: "):
        workload.parse_mix(text)


def test_it_is_known_whether_a_mix_up_would_show() -> None:
    """Samples with equal answers tell nothing; the share that differs is reported."""
    same, other = Expected((1,), 0.5, "1"), Expected((2,), 0.5, "1")
    assert workload.telling([same, same, same]) == 0
    assert workload.telling([same, other, same, other]) == 1
    assert workload.telling([same]) == 0
