"""How peers are spoken to: readiness, answers checked by a real client, and the load."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Protocol

import grpc
import numpy as np
import numpy.typing as npt

from benchmarks import common
from benchmarks.common import Load
from benchmarks.peers import environments
from benchmarks.peers.model import SERVERS, Model
from convserve.manifest import INPUT_NAME, PROBABILITIES_NAME
from convserve.open_inference.v2 import infer_pb2, management_pb2

SERVICE = "/inference.GRPCInferenceService/"
TOLERANCE = 1e-5


class Dialect(Protocol):
    """What the measurement needs of a peer's interface."""

    def is_ready(self, port: int, model: Model) -> bool:
        """Whether the model answers."""

    def check(self, port: int, model: Model) -> None:
        """Compare answers with the golden ones.

        Raises:
            RuntimeError: they differ.
        """

    def load(self, port: int, model: Model, images: int, load: Load) -> dict[str, float]:
        """Send requests of so many random images each. Returns the rate and latencies.

        Raises:
            RuntimeError: some were not answered.
        """


class OpenInference:
    """The Open Inference Protocol: raw uint8 pixels, probabilities wanted."""

    def is_ready(self, port: int, model: Model) -> bool:
        """Ask ModelReady, on a connection of its own: one that was refused is not tried again for a second."""
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}ModelReady")
            try:
                reply = ask(management_pb2.ModelReadyRequest(name=model.name).SerializeToString(), timeout=5)
            except grpc.RpcError:
                return False
        return management_pb2.ModelReadyResponse.FromString(reply).ready

    def check(self, port: int, model: Model) -> None:
        """Have tritonclient do it."""
        python = environments.python_of(environments.CLIENT)
        if python is None:
            raise RuntimeError("no client to check answers with; python -m benchmarks.peers.environments client")
        command = [str(python), str(SERVERS / "client.py"), f"127.0.0.1:{port}", model.name, str(model.golden)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if ended.returncode:
            raise RuntimeError(f"wrong answers: {ended.stderr.strip()}")

    def load(self, port: int, model: Model, images: int, load: Load) -> dict[str, float]:
        """Have h2load call ModelInfer; as it does not look at grpc-status, the size of the replies is checked."""
        pixels = model.random_images(images)
        request = infer_pb2.ModelInferRequest(model_name=model.name, raw_input_contents=[pixels.tobytes()])
        request.inputs.add(name=INPUT_NAME, datatype="UINT8", shape=pixels.shape)
        request.outputs.add(name=PROBABILITIES_NAME)
        least = images * model.classes * 4  # bytes of the probabilities
        return common.h2load(port, f"{SERVICE}ModelInfer", request.SerializeToString(), load, least_reply_bytes=least)


@dataclass(frozen=True)
class Json:
    """HTTP/1.1 and JSON, of servers that speak nothing else: images as nested lists of numbers."""

    path: str
    """Where requests are posted."""

    def is_ready(self, port: int, model: Model) -> bool:
        """Ask for an image."""
        try:
            return len(self._ask(port, model.random_images(1))) == 1
        except (OSError, ValueError):
            return False

    def check(self, port: int, model: Model) -> None:
        """Ask for golden images, together and one by one."""
        images, expected = model.golden_answers(32)
        together = self._ask(port, images)
        alone = np.concatenate([self._ask(port, images[index : index + 1]) for index in range(8)])
        for found, wanted in ((together, expected), (alone, expected[:8])):
            if found.shape != wanted.shape or np.abs(found - wanted).max() > TOLERANCE:
                raise RuntimeError(f"wrong answers from {self.path}")

    def load(self, port: int, model: Model, images: int, load: Load) -> dict[str, float]:
        """Have h2load post; on HTTP/1.1 it sends one request at a time on each connection."""
        connections = Load(load.connections * load.streams, 1, load.requests)
        headers = {"content-type": "application/json"}
        body = self._body(model.random_images(images))
        return common.post(f"http://127.0.0.1:{port}{self.path}", body, headers, connections, flags=("--h1",))

    def _ask(self, port: int, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{self.path}", self._body(images), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                found = json.load(reply)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read()[:500]) from error
        return np.array(found["probabilities"] if isinstance(found, dict) else found)

    @staticmethod
    def _body(images: npt.NDArray[np.uint8]) -> bytes:
        return json.dumps({"images": images.tolist()}).encode()
