"""What a small message may cost before anybody knows whether it can be answered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convserve.errors import InvalidRequestError
from convserve.open_inference.v2 import infer_pb2
from convserve.server import classification
from convserve.server.call import Call
from convserve.server.open_inference import request as open_inference_request
from convserve.server.open_inference import tensors as open_inference_tensors
from convserve.server.pixels import to_pixels
from convserve.server.tensorflow_serving import request
from convserve.server.tensorflow_serving import tensors as tensorflow_tensors
from convserve.tensorflow_core.v1 import tensor_pb2
from convserve.tensorflow_serving.v1 import model_pb2
from convserve.tensorflow_serving.v1 import prediction_pb2 as pb
from convserve.v1 import classification_pb2

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


def refusal_and_peak(read: Callable[[], Any]) -> tuple[str, int]:
    """What a request is refused with, and the bytes that it took meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError) as refused:
            read()
        return str(refused.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_refusal_names_one_value_without_a_list_of_all() -> None:
    """A list of where values are no pixels takes 32 bytes for each of them: gigabytes for one message."""
    values = np.full((1000, 32, 32, 1), -1, np.int8)
    said, peak = refusal_and_peak(lambda: to_pixels(values, "0-255", "inputs[0]"))
    assert "-1 came at [0, 0, 0, 0]" in said
    assert peak < 5 * values.nbytes


def test_shapes_without_end_are_counted_and_not_read() -> None:
    """Reading and quoting sixty million of them stopped every other call for half a minute."""
    many = 1_000_000
    packed = classification_pb2.PackedImages(shape=[1] * many)
    open_inference = infer_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1] * many)
    tensorflow = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_UINT8)
    tensorflow.tensor_shape.MergeFromString(b"\x12\x00" * many)
    for read in (
        lambda: classification._unpack(packed),
        lambda: open_inference_tensors.read_numbers(open_inference, b"", "inputs[0]"),
        lambda: open_inference_tensors.read_files(open_inference, b"", "inputs[0]"),
        lambda: tensorflow_tensors.read_numbers(tensorflow, "inputs"),
        lambda: tensorflow_tensors.read_files(tensorflow, "inputs"),
    ):
        said, peak = refusal_and_peak(read)
        assert "1000000 dimensions came" in said
        assert peak < 100_000


def test_files_without_end_are_counted_and_not_read() -> None:
    """A tensor's elements are copied one by one once their number is right."""
    tensor = infer_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.extend([b"x" * 40] * 100_000)
    said, peak = refusal_and_peak(lambda: open_inference_tensors.read_files(tensor, None, "inputs[0]"))
    assert "100000 elements came" in said
    assert peak < 100_000


def test_names_without_end_are_counted_and_not_read() -> None:
    """Parameters of one protocol, inputs of the other: millions fit into a message."""
    many = 20_000
    infer = infer_pb2.ModelInferRequest(model_name="stripes")
    predict = pb.PredictRequest(model_spec=model_pb2.ModelSpec(name="stripes"))
    for number in range(many):
        infer.parameters[str(number)].bool_param = True
        predict.inputs[str(number)].dtype = tensor_pb2.DT_STRING
    for read in (
        lambda: open_inference_request.read(infer, call()),
        lambda: request.read_predict(predict, call()),
    ):
        said, peak = refusal_and_peak(read)
        assert f"{many} came" in said
        assert peak < 100_000
    assert not request.holds_files(predict)
