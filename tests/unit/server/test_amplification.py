"""What a small message may cost before anybody knows whether it can be answered."""

from __future__ import annotations

import tracemalloc

import pytest

from convserve.errors import InvalidRequestError
from convserve.server.call import Call
from convserve.server.tensorflow_serving import request
from convserve.tensorflow_core.v1 import tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2 as pb

FILE = b"x" * 1_000_000


def call() -> Call:
    """A call without a deadline."""
    return Call("tensorflow_serving", [], None)


def test_examples_share_the_file_in_their_context() -> None:
    """An example of two bytes must not cost as many bytes of memory as the file that all of them share."""
    message = pb.ClassificationRequest(model_spec=model_pb2.ModelSpec(name="stripes"))
    listed = message.input.example_list_with_context
    listed.context.features.feature["image/encoded"].bytes_list.value.append(FILE)
    for _ in range(300):
        listed.examples.add()
    tracemalloc.start()
    try:
        read = request.read_classify(message, call())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(read.images) == [FILE] * 300
    assert peak < 3 * len(FILE)


def test_examples_without_end_are_refused_unread() -> None:
    """Two bytes make an example; more than any model takes are refused by their number."""
    message = pb.ClassificationRequest(model_spec=model_pb2.ModelSpec(name="stripes"))
    listed = message.input.example_list_with_context
    listed.context.features.feature["image/encoded"].bytes_list.value.append(b"x")
    listed.MergeFromString(b"\x0a\x00" * 70_000)
    with pytest.raises(InvalidRequestError, match="70000 came"):
        request.read_classify(message, call())


def test_a_repeated_value_stands_for_so_many_elements() -> None:
    """A few bytes must not hold up, for a third of a second, the one thread that reads everybody's requests."""
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_DOUBLE, double_val=[1.0])
    for size in (2**10, 32, 32, 1):
        tensor.tensor_shape.dim.add(size=size)
    message = pb.PredictRequest(model_spec=model_pb2.ModelSpec(name="stripes"))
    message.inputs["image"].CopyFrom(tensor)
    with pytest.raises(InvalidRequestError, match="1 values came"):
        request.read_predict(message, call())
