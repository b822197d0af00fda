"""Signatures of manifests, so that a server can tell who published a version.

The signature is Ed25519 (RFC 8032) over the very bytes of `manifest.json`, which holds the digests of all other files.
Its 64 bytes lie beside it in `manifest.json.sig`; OpenSSL makes and checks the same::

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
    openssl pkeyutl -sign -rawin -inkey key.pem -in manifest.json -out manifest.json.sig
    openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in manifest.json -sigfile manifest.json.sig
"""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from convserve.errors import ArtifactError, ConfigError
from convserve.manifest import MANIFEST_FILE, SIGNATURE_FILE, read_file

_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class Signer:
    """Signs with a private key."""

    def __init__(self, key_file: Path) -> None:
        """Read the key from a PEM file.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        try:
            key = serialization.load_pem_private_key(_read(key_file), password=None)
        except TypeError as error:
            raise ConfigError(f"{key_file}: the key is encrypted; give one without a password") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{key_file}: holds no private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{key_file}: is no Ed25519 key; make one: openssl genpkey -algorithm ed25519")
        self._key = key

    def sign(self, directory: Path) -> None:
        """Sign the manifest in a directory: write the signature beside it."""
        signature = self._key.sign((directory / MANIFEST_FILE).read_bytes())
        (directory / SIGNATURE_FILE).write_bytes(signature)


class Verifier:
    """Checks signatures with public keys; one that fits is enough, so that keys can be rotated."""

    def __init__(self, keys_file: Path) -> None:
        """Read the keys from a PEM file.

        Raises:
            ConfigError: the file cannot be read, or holds no Ed25519 public key or something else beside them.
        """
        content = _read(keys_file)
        self._keys: dict[str, Ed25519PublicKey] = {}
        for pem in _PUBLIC_KEY.findall(content):
            try:
                key = serialization.load_pem_public_key(pem)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise ConfigError(f"{keys_file}: holds a public key that cannot be read") from error
            if not isinstance(key, Ed25519PublicKey):
                raise ConfigError(f"{keys_file}: holds a public key that is not Ed25519")
            self._keys[hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]] = key
        if not self._keys:
            raise ConfigError(f"{keys_file}: holds no public key in PEM form; make one: openssl pkey -pubout")

    def check(self, directory: Path, manifest: bytes) -> str:
        """Check the signature of a manifest. Returns which key made it: 16 digits of its SHA-256.

        Args:
            directory: the version's, where the signature lies.
            manifest: the very bytes that will be believed.

        Raises:
            ArtifactError: there is no signature, or none of the keys made it for these bytes.
        """
        path = directory / SIGNATURE_FILE
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
                raise ArtifactError(f"{path}: is no file; this server takes signed versions only")
            signature = read_file(path)
        except OSError as error:
            raise ArtifactError(
                f"{path}: cannot be read ({error.strerror}); this server takes signed versions only"
            ) from error
        for name, key in self._keys.items():
            try:
                key.verify(signature, manifest)
            except InvalidSignature:
                continue
            return name
        raise ArtifactError(f"{path}: is no signature of {MANIFEST_FILE} by a key that this server trusts")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
