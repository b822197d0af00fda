"""TLS, client certificates and tokens."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

import convserve
from convserve import AsyncClient, Client, Tls
from convserve.client import security
from support.fake_server import running


@dataclass(frozen=True)
class Certificates:
    """Files of a small authority: its own, a server's and a client's."""

    directory: Path

    def __getitem__(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: TLS is NOT tested")
    directory = tmp_path_factory.mktemp("certificates")

    def make(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True, timeout=30)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    make("req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        (directory / f"{name}.ext").write_text("subjectAltName=DNS:models.example\n")
        make("req", *key[:-2], "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        make("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return Certificates(directory)


def server_credentials(files: Certificates, *, mutual: bool) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(files["server.key"].read_bytes(), files["server.pem"].read_bytes())],
        root_certificates=files["ca.pem"].read_bytes() if mutual else None,
        require_client_auth=mutual,
    )


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_tls(certificates: Certificates, mutual: bool, as_bytes: bool) -> None:
    """One-sided or mutual, from files or bytes, in both clients, with a token."""

    def pem(name: str) -> Any:
        return certificates[name].read_bytes() if as_bytes else str(certificates[name])

    own: dict[str, Any] = {"cert": pem("client.pem"), "key": pem("client.key")} if mutual else {}
    tls = Tls(ca=pem("ca.pem"), server_name="models.example", **own)
    with running(credentials=server_credentials(certificates, mutual=mutual)) as fake:
        with Client(fake.target, tls=tls, token="secret") as client:
            assert client.classify(b"\x01", model="m").index == 1

        async def test() -> int:
            async with AsyncClient(fake.target, tls=tls, token=lambda: "fresh") as other:
                return (await other.classify(b"\x02", model="m")).index

        assert asyncio.run(test()) == 2
    assert [data["authorization"] for data in fake.metadata] == ["Bearer secret", "Bearer fresh"]


@pytest.mark.parametrize("tls", [True, False])
def test_a_server_that_cannot_be_verified_gets_nothing(certificates: Certificates, tls: bool) -> None:
    """Nor one that speaks TLS when the client does not."""
    with (
        running(credentials=server_credentials(certificates, mutual=False)) as fake,
        Client(fake.target, tls=tls, retry=None) as client,
    ):
        with pytest.raises(convserve.UnavailableError):
            client.classify(b"\x01", model="m")
        assert not fake.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cert": b"-----BEGIN"}, r"tls\.key is missing; tls\.cert is useless without it"),
        ({"key": "key.pem"}, r"tls\.cert is missing; tls\.key is useless without it"),
    ],
)
def test_certificate_and_key_come_together(arguments: dict[str, Any], message: str) -> None:
    """One without the other is a mistake."""
    with pytest.raises(convserve.ConfigError, match=message):
        Tls(**arguments)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("pem", "message"), [("/nowhere/ca.pem", r"tls\.ca: /nowhere/ca\.pem cannot be read"), (b"no", "holds no PEM data")]
)
def test_certificates_that_cannot_be_read_are_refused_at_once(kind: Any, pem: Any, message: str) -> None:
    """When the client is made, not at its first call."""
    with pytest.raises(convserve.ConfigError, match=message):
        kind("models.example:8001", tls=Tls(ca=pem))


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:8001", True),
        ("127.0.0.1:8001", True),
        ("dns:///localhost:8001", True),
        ("ipv4:127.0.0.1:1", True),
        ("[::1]:8001", True),
        ("unix:/run/convserve.sock", True),
        ("models.example:8001", False),
        ("dns:///models.example:8001", False),
        ("10.0.0.1:8001", False),
        ("localhost.example:8001", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("127.0.0.1.example:8001", False),
    ],
)
def test_tokens_travel_in_the_clear_only_on_this_machine(target: str, local: bool) -> None:
    """Unless the caller says that something else encrypts."""
    assert security.is_local(target) is local
    if not local:
        with pytest.raises(convserve.ConfigError, match="unencrypted; set tls=True"):
            Client(target, token="secret")
    Client(target, token="secret", plaintext_token=True).close()
    Client(target, token="secret", tls=True).close()
