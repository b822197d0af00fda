"""What is wrong with files for TLS is told before anything starts."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from convserve.config import TlsSettings
from convserve.errors import ConfigError
from convserve.server.tls import Certificates
from support.certificates import Authority, pem_key


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("missing", "good", r"tls.cert_file: .* cannot be read"),
        ("good", "missing", r"tls.key_file: .* cannot be read"),
        ("key", "good", r"tls.cert_file: .* holds no certificates"),
        ("good", "cert", r"tls.key_file: .* holds no private key"),
        ("good", "other", r"tls.key_file: .* is not the key of the first certificate"),
        ("good", "encrypted", r"tls.key_file: .* is encrypted"),
        ("ed25519", "ed25519", r"tls.cert_file: the key of .* is neither RSA nor ECDSA"),
        ("koblitz", "koblitz", r"tls.cert_file: the key of .* is neither RSA nor ECDSA on P-256"),
        ("unknown", "good", r"tls.cert_file: the key of .* cannot be read"),
    ],
)
def test_files_that_do_not_fit_end_the_start(tmp_path: Path, cert: str, key: str, words: str) -> None:
    """The error names the setting, the file and what is wrong with it."""
    own = ec.generate_private_key(ec.SECP256R1())
    authority = Authority("authority")
    good = authority.sign("server", key=own)
    edwards = authority.sign("server", key=ed25519.Ed25519PrivateKey.generate())
    koblitz = authority.sign("server", key=ec.generate_private_key(ec.SECP256K1()))
    contents = {
        ("cert", "good"): good.cert,
        ("cert", "key"): good.key,
        ("cert", "ed25519"): edwards.cert,
        ("key", "ed25519"): edwards.key,
        ("cert", "koblitz"): koblitz.cert,
        ("key", "koblitz"): koblitz.key,
        ("cert", "unknown"): on_unknown_curve(good.cert),
        ("key", "good"): good.key,
        ("key", "cert"): good.cert,
        ("key", "other"): authority.sign("other").key,
        ("key", "encrypted"): pem_key(own, b"password"),
    }
    for kind, choice in (("cert", cert), ("key", key)):
        if choice != "missing":
            (tmp_path / kind).write_bytes(contents[kind, choice])
    settings = TlsSettings(cert_file=str(tmp_path / "cert"), key_file=str(tmp_path / "key"))
    with pytest.raises(ConfigError, match=words):
        Certificates(settings).credentials()


def on_unknown_curve(certificate: bytes) -> bytes:
    """The same certificate, if its key were on a curve that nobody knows."""
    body = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
    secp256r1 = bytes.fromhex("2a8648ce3d030107")
    changed = base64.encodebytes(body.replace(secp256r1, secp256r1[:-1] + b"\x63"))
    return b"-----BEGIN CERTIFICATE-----\n" + changed + b"-----END CERTIFICATE-----\n"


def test_authorities_for_clients_must_be_certificates(tmp_path: Path) -> None:
    """A file without any would let nobody in, or everybody; which of the two is not worth finding out."""
    pair = Authority("authority").sign("server").write(tmp_path, "server")
    (tmp_path / "clients.pem").write_text("nothing")
    settings = TlsSettings(cert_file=str(pair[0]), key_file=str(pair[1]), client_ca_file=str(tmp_path / "clients.pem"))
    with pytest.raises(ConfigError, match=r"tls.client_ca_file: .* holds no certificates"):
        Certificates(settings).credentials()


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"cert_file": "a"}, "key_file"), ({"key_file": "a"}, "cert_file"), ({"client_ca_file": "a"}, "cert_file")],
)
def test_a_certificate_needs_its_key(given: dict[str, str], missing: str) -> None:
    """Half of a pair is a mistake."""
    with pytest.raises(ValueError, match=f"tls.{missing} is empty"):
        TlsSettings(**given)
