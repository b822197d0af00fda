"""What importing the package loads: other services install the client, so it stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import convserve

HEAVY = ["onnxruntime", "tensorflow", "prometheus_client", "msgspec", "structlog", "PIL"]
"""`grpc_health` is not in the list: grpc itself loads it where it is installed."""


def loaded_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "from convserve import Client",
        "import convserve.client, convserve.errors, convserve.arrays",
        "from convserve import Client\ntry: Client('127.0.0.1:1').health()\nexcept Exception: pass",
    ],
)
def test_the_client_loads_nothing_of_the_server(code: str) -> None:
    """Not even when it is used."""
    assert loaded_after(code).isdisjoint([*HEAVY, "convserve.manifest", "convserve.server"])


def test_the_package_alone_loads_neither_client_nor_grpc() -> None:
    """The server can import parts of the package without the client."""
    assert loaded_after("import convserve").isdisjoint([*HEAVY, "convserve.client", "grpc", "numpy"])


@pytest.mark.parametrize("name", convserve.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """`__all__` promises nothing that cannot be loaded."""
    assert getattr(convserve, name) is not None
    assert name in dir(convserve)


def test_other_names_are_missing_as_usual() -> None:
    """A typing error is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        convserve.Clint  # noqa: B018
