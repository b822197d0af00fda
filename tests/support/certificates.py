"""Authorities and certificates, made for one test."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM form."""

    cert: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Put both into files, each in one step. Returns their paths."""
        directory.mkdir(exist_ok=True)
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, content in zip(paths, (self.cert, self.key), strict=True):
            beside = path.with_suffix(path.suffix + ".new")
            beside.write_bytes(content)
            beside.rename(path)
        return paths


class Authority:
    """Signs certificates."""

    def __init__(self, name: str) -> None:
        """Make its own certificate."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = (
            _builder(self._name, self._name, self._key, days=30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.cert = _pem(self._certificate)
        """In PEM form: what others trust."""

    def sign(self, name: str, *, days: int = 1, key: PrivateKey | None = None) -> Pair:
        """Make a certificate for this machine; a negative number of days makes one that has expired."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        here = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
        )
        certificate = (
            _builder(_name(name), self._name, key, days)
            .add_extension(here, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(_pem(certificate), pem_key(key))


def pem_key(key: PrivateKey, password: bytes | None = None) -> bytes:
    """A private key in PEM form."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, days: int) -> x509.CertificateBuilder:
    ends = datetime.datetime.now(datetime.UTC) + days * DAY
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - 60 * DAY)
        .not_valid_after(ends)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
