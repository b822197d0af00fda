"""Keys that sign versions."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.certificates import pem_key


class SigningKey:
    """A private and a public key, as files."""

    def __init__(self, directory: Path, name: str = "signing") -> None:
        """Make a new pair."""
        key = Ed25519PrivateKey.generate()
        self.private_file = directory / f"{name}.key"
        self.private_file.write_bytes(pem_key(key))
        self.public_file = directory / f"{name}.pub"
        self.public_file.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
