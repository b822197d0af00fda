"""Signatures of manifests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from convserve.errors import ArtifactError, ConfigError
from convserve.manifest import MANIFEST_FILE, SIGNATURE_FILE
from convserve.signing import Signer, Verifier
from support.certificates import pem_key
from support.keys import SigningKey


@pytest.fixture
def version(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST_FILE).write_bytes(b'{"model": "stripes"}')
    return tmp_path


def test_what_one_signs_the_other_accepts(version: Path) -> None:
    """And says which key it was."""
    key = SigningKey(version)
    Signer(key.private_file).sign(version)
    name = Verifier(key.public_file).check(version, (version / MANIFEST_FILE).read_bytes())
    assert len(name) == 16


def test_a_changed_manifest_is_refused(version: Path) -> None:
    """One byte is enough."""
    key = SigningKey(version)
    Signer(key.private_file).sign(version)
    with pytest.raises(ArtifactError, match=r"is no signature of manifest\.json by a key that this server trusts"):
        Verifier(key.public_file).check(version, (version / MANIFEST_FILE).read_bytes() + b"\n")


def test_another_key_is_refused(version: Path) -> None:
    """Anybody can sign; only those who are trusted count."""
    Signer(SigningKey(version, "theirs").private_file).sign(version)
    with pytest.raises(ArtifactError, match="is no signature"):
        Verifier(SigningKey(version, "ours").public_file).check(version, (version / MANIFEST_FILE).read_bytes())


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(10_000)])
def test_nonsense_is_refused(version: Path, signature: bytes) -> None:
    """Whatever lies in the file."""
    (version / SIGNATURE_FILE).write_bytes(signature)
    with pytest.raises(ArtifactError, match="is no signature"):
        Verifier(SigningKey(version).public_file).check(version, (version / MANIFEST_FILE).read_bytes())


def test_a_missing_signature_is_refused(version: Path) -> None:
    """The sentence says what the server wants."""
    with pytest.raises(ArtifactError, match="this server takes signed versions only"):
        Verifier(SigningKey(version).public_file).check(version, b"")


def test_a_pipe_is_no_signature(version: Path) -> None:
    """Nobody would ever write to it, and whoever loads versions, or ends the server, would wait for that."""
    os.mkfifo(version / SIGNATURE_FILE)
    with pytest.raises(ArtifactError, match="is no file"):
        Verifier(SigningKey(version).public_file).check(version, b"")


def test_keys_rotate(version: Path) -> None:
    """Several keys in one file: those who signed with the old one and with the new one are both trusted."""
    old, new = SigningKey(version, "old"), SigningKey(version, "new")
    both = version / "both.pem"
    both.write_bytes(old.public_file.read_bytes() + b"# from next year on\n" + new.public_file.read_bytes())
    names = set()
    for key in (old, new):
        Signer(key.private_file).sign(version)
        names.add(Verifier(both).check(version, (version / MANIFEST_FILE).read_bytes()))
    assert len(names) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"nothing", "holds no private key"),
        (pem_key(ec.generate_private_key(ec.SECP256R1())), "is no Ed25519 key"),
        (pem_key(ed25519.Ed25519PrivateKey.generate(), b"password"), "is encrypted"),
    ],
)
def test_a_key_that_cannot_sign_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    """The error names the file and what is wrong."""
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"key.pem: .*{words}"):
        Signer(path)


def test_keys_that_cannot_verify_are_refused(tmp_path: Path) -> None:
    """A file that trusts nobody by mistake, or another kind of key."""
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path / "public.pem"
    for content, words in (
        (b"", "holds no public key"),
        (pem, "not Ed25519"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            Verifier(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here: its signatures were not checked")
def test_openssl_makes_the_same_signatures(version: Path) -> None:
    """The commands in the module's description work, so versions can be signed without this program."""
    run = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", MANIFEST_FILE, "-out", SIGNATURE_FILE]
    for command in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"],
        ["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"],
        run,
    ):
        subprocess.run(command, cwd=version, check=True, capture_output=True)
    theirs = (version / SIGNATURE_FILE).read_bytes()
    Verifier(version / "public.pem").check(version, (version / MANIFEST_FILE).read_bytes())
    Signer(version / "key.pem").sign(version)
    assert (version / SIGNATURE_FILE).read_bytes() == theirs
