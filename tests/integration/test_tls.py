"""Encryption, with real handshakes between a real server and real clients."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convserve import AsyncClient, Client, Tls
from convserve.errors import ConvserveError, UnauthenticatedError, UnavailableError
from support import server as servers
from support import versions, waiting
from support.certificates import Authority, Pair

IMAGE = versions.random_images(1)[0]
TOKEN = "a-token-0123456789"


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Whom the clients trust."""
    return Authority("authority")


@pytest.fixture(scope="module")
def stranger() -> Authority:
    """Whom nobody trusts."""
    return Authority("stranger")


def flags(directory: Path, pair: Pair, client_ca: bytes | None = None) -> list[str]:
    """Flags of a server with this certificate."""
    cert, key = pair.write(directory / "tls", "server")
    found = ["--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    if client_ca is not None:
        path = directory / "tls" / "clients.pem"
        path.write_bytes(client_ca)
        found += ["--tls-client-ca-file", str(path)]
    return found


def label(target: str, tls: Tls | None, *, token: str | None = None, image: Any = IMAGE) -> Any:
    """Classify with a client of its own, and so with a handshake of its own."""
    with Client(target, tls=tls or False, token=token, retry=None, connections=1, plaintext_token=True) as client:
        return client.classify(image, model="stripes", timeout=10).label


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[servers.ServerProcess]:
    """TLS, without client certificates, with tokens for inference."""
    root = tmp_path_factory.mktemp("tls")
    versions.write_version(root / "repository")
    (root / "tokens").write_text(TOKEN)
    extra = ["--auth-inference-tokens-file", str(root / "tokens")]
    with servers.serving(root / "repository", root, *flags(root, authority.sign("server")), *extra) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[servers.ServerProcess]:
    """TLS that asks clients for a certificate."""
    root = tmp_path_factory.mktemp("mtls")
    versions.write_version(root / "repository")
    with servers.serving(
        root / "repository", root, *flags(root, authority.sign("server"), client_ca=authority.cert)
    ) as running:
        yield running


def test_a_client_that_trusts_the_authority_is_answered(server: servers.ServerProcess, authority: Authority) -> None:
    """The token travels encrypted."""
    assert label(server.target, Tls(ca=authority.cert), token=TOKEN) in versions.LABELS


def test_the_asyncio_client_is_answered(server: servers.ServerProcess, authority: Authority) -> None:
    """The same with the other client."""

    async def classify() -> Any:
        async with AsyncClient(server.target, tls=Tls(ca=authority.cert), token=TOKEN) as client:
            return (await client.classify(IMAGE, model="stripes")).label

    assert asyncio.run(classify()) in versions.LABELS


def test_a_missing_token_is_no_matter_of_tls(server: servers.ServerProcess, authority: Authority) -> None:
    """Encryption proves the server; the token is asked for all the same."""
    with pytest.raises(UnauthenticatedError, match="no token came"):
        label(server.target, Tls(ca=authority.cert))
    with pytest.raises(UnauthenticatedError, match="not valid here"):
        label(server.target, Tls(ca=authority.cert), token="b-token-0123456789")


def test_another_authority_is_not_trusted(server: servers.ServerProcess, stranger: Authority) -> None:
    """A client that trusts somebody else sends nothing."""
    with pytest.raises(UnavailableError):
        label(server.target, Tls(ca=stranger.cert), token=TOKEN)


def test_the_name_must_be_right(server: servers.ServerProcess, authority: Authority) -> None:
    """A good certificate of another host is no proof."""
    with pytest.raises(UnavailableError):
        label(server.target, Tls(ca=authority.cert, server_name="elsewhere.example"), token=TOKEN)


def test_nothing_is_answered_unencrypted(server: servers.ServerProcess) -> None:
    """A client without TLS gets no answer on a port with TLS."""
    with pytest.raises(UnavailableError):
        label(server.target, None, token=TOKEN)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_present_versions_of_tls_are_spoken(
    server: servers.ServerProcess, authority: Authority, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 for those who have not arrived yet, and 1.3."""
    assert _handshake(server, authority, version) == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


def test_a_certificate_that_has_expired_is_refused(tmp_path: Path, repository: Path, authority: Authority) -> None:
    """The client refuses the server's; the server's log says why nobody comes."""
    expired = authority.sign("server", days=-1)
    with servers.serving(repository, tmp_path, *flags(tmp_path, expired)) as running:
        with pytest.raises(UnavailableError):
            label(running.target, Tls(ca=authority.cert))
        assert "the certificate has expired; clients will refuse it" in running.log


def test_a_clients_certificate_lets_it_in(mutual: servers.ServerProcess, authority: Authority) -> None:
    """mTLS: both sides show who they are."""
    me = authority.sign("client")
    assert label(mutual.target, Tls(ca=authority.cert, cert=me.cert, key=me.key)) in versions.LABELS


def test_without_a_certificate_of_the_right_authority_nobody_is_let_in(
    mutual: servers.ServerProcess, authority: Authority, stranger: Authority
) -> None:
    """None, one that somebody else has signed, and one that has expired are all refused in the handshake."""
    wrong, expired = stranger.sign("client"), authority.sign("client", days=-1)
    for tls in (
        Tls(ca=authority.cert),
        Tls(ca=authority.cert, cert=wrong.cert, key=wrong.key),
        Tls(ca=authority.cert, cert=expired.cert, key=expired.key),
    ):
        with pytest.raises(UnavailableError):
            label(mutual.target, tls)
    me = authority.sign("client")
    assert label(mutual.target, Tls(ca=authority.cert, cert=me.cert, key=me.key)) in versions.LABELS


@pytest.mark.parametrize("workers", [1, 2])
def test_certificates_rotate_without_a_restart(
    tmp_path: Path, repository: Path, authority: Authority, stranger: Authority, workers: int
) -> None:
    """New connections get the new certificate, in every worker; a client that is connected notices nothing."""
    with (
        servers.serving(
            repository, tmp_path, *flags(tmp_path, authority.sign("old")), "--workers", str(workers)
        ) as running,
        Client(running.target, tls=Tls(ca=authority.cert), connections=1) as connected,
    ):
        assert connected.classify(IMAGE, model="stripes").label in versions.LABELS
        stranger.sign("new").write(tmp_path / "tls", "server")

        def all_new() -> bool:
            return {_subject(running, [authority, stranger]) for _ in range(4 * workers)} == {"new"}

        waiting.until(all_new)
        assert label(running.target, Tls(ca=stranger.cert)) in versions.LABELS
        with pytest.raises(UnavailableError):
            label(running.target, Tls(ca=authority.cert))
        assert connected.classify(IMAGE, model="stripes").label in versions.LABELS


def test_clients_that_trust_both_lose_no_call_through_a_rotation(
    tmp_path: Path, repository: Path, authority: Authority, stranger: Authority
) -> None:
    """Connections come of age and are made anew; the default client's calls all succeed meanwhile."""
    both = Tls(ca=authority.cert + stranger.cert)
    with (
        servers.serving(
            repository,
            tmp_path,
            *flags(tmp_path, authority.sign("old")),
            *("--limits-max-connection-age", "0.5"),
        ) as running,
        Client(running.target, tls=both) as client,
    ):
        calls = 0

        def rotated() -> bool:
            nonlocal calls
            assert client.classify(IMAGE, model="stripes").label in versions.LABELS
            calls += 1
            return calls > 20 and _subject(running, [authority, stranger]) == "new"

        assert not rotated()
        stranger.sign("new").write(tmp_path / "tls", "server")
        waiting.until(rotated)


def test_a_rotation_that_is_half_done_is_not_taken(tmp_path: Path, repository: Path, authority: Authority) -> None:
    """A certificate that has come before its key waits for it; the log says so."""
    new = authority.sign("new")
    with servers.serving(repository, tmp_path, *flags(tmp_path, authority.sign("old"))) as running:
        (tmp_path / "tls" / "server.pem").write_bytes(new.cert)
        waiting.until(
            lambda: _subject(running, [authority]) == "old" and "certificates were not reloaded" in running.log
        )
        assert _subject(running, [authority]) == "old"
        (tmp_path / "tls" / "server.key").write_bytes(new.key)
        waiting.until(lambda: _subject(running, [authority]) == "new")


def test_an_authority_for_clients_rotates_too(
    tmp_path: Path, repository: Path, authority: Authority, stranger: Authority
) -> None:
    """Clients of an authority that was taken out are not let in any more."""
    old, new = authority.sign("client"), stranger.sign("client")
    with servers.serving(
        repository, tmp_path, *flags(tmp_path, authority.sign("server"), client_ca=authority.cert)
    ) as running:
        assert label(running.target, Tls(ca=authority.cert, cert=old.cert, key=old.key)) in versions.LABELS
        (tmp_path / "tls" / "clients.pem").write_bytes(stranger.cert)
        waiting.until(lambda: _is_answered(running, Tls(ca=authority.cert, cert=new.cert, key=new.key)))
        assert not _is_answered(running, Tls(ca=authority.cert, cert=old.cert, key=old.key))


def _is_answered(running: servers.ServerProcess, tls: Tls) -> bool:
    try:
        return label(running.target, tls) in versions.LABELS
    except ConvserveError:
        return False


def _context(authorities: list[Authority]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="".join(one.cert.decode() for one in authorities))
    context.set_alpn_protocols(["h2"])
    return context


def _handshake(running: servers.ServerProcess, authority: Authority, version: ssl.TLSVersion) -> str | None:
    """Shake hands in one version of TLS. Returns its name."""
    context = _context([authority])
    context.minimum_version = context.maximum_version = version
    host, port = running.target.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.version()


def _subject(running: servers.ServerProcess, authorities: list[Authority]) -> str:
    """Whose certificate a new connection is shown."""
    host, port = running.target.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        _context(authorities).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        certificate: Any = secure.getpeercert()
        return str(certificate["subject"][0][0][1])


def test_the_command_line_shows_who_it_is(
    mutual: servers.ServerProcess, server: servers.ServerProcess, authority: Authority, tmp_path: Path
) -> None:
    """Certificates and tokens are files; without them the commands say what is missing."""
    pair = authority.sign("client").write(tmp_path, "client")
    (tmp_path / "ca.pem").write_bytes(authority.cert)
    (tmp_path / "token").write_text(TOKEN + "\n")
    picture = tmp_path / "picture.png"
    Image.fromarray(IMAGE[:, :, 0]).save(picture)
    ca = ["--tls-ca", str(tmp_path / "ca.pem")]

    def run(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "convserve", arguments[0], "--target", target, *arguments[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    shown = run(mutual.target, "models", *ca, "--tls-cert", str(pair[0]), "--tls-key", str(pair[1]))
    assert "stripes" in shown.stdout, shown.stderr
    classify = ["classify", str(picture), "--model", "stripes", *ca]
    answered = run(server.target, *classify, "--token-file", str(tmp_path / "token"))
    assert answered.returncode == 0, answered.stderr
    refused = run(server.target, *classify)
    assert refused.returncode == 1
    assert "no token came" in refused.stderr
