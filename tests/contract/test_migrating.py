"""The snippets of docs/migrating.md run as they are, but for the address."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.server import ServerProcess

pytestmark = pytest.mark.timeout(400)  # the first run installs the clients

TEXT = (Path(__file__).parents[2] / "docs/migrating.md").read_text()
SNIPPETS = re.findall(r"<!-- client: (\S+) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
PROTOS_ONLY = """
import sys, types
sys.modules["tensorflow"] = package = types.ModuleType("tensorflow")
package.__path__ = [{folder!r}]
"""


def test_there_is_one_for_each_server() -> None:
    """Triton, KServe and TensorFlow Serving."""
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize(("client", "code"), SNIPPETS, ids=["triton", "kserve", "tensorflow-serving"])
def test_snippet(server: ServerProcess, environment_of: Callable[[str], Path], client: str, code: str) -> None:
    """It ends well and prints an answer."""
    python = environment_of(client)
    if client == "tensorflow-serving":
        spec = importlib.util.find_spec("tensorflow")
        if spec is None or spec.origin is None:
            pytest.skip("NOT TESTED: TensorFlow, whose messages the client needs, is not installed")
        code = PROTOS_ONLY.format(folder=str(Path(spec.origin).parent)) + code
    assert "127.0.0.1:8001" in code
    ended = subprocess.run(
        [python, "-c", code.replace("127.0.0.1:8001", server.target)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": ""},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("[")
