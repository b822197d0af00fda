"""Fetching a file over HTTP: with progress, resumed after a break, verified before it gets its name."""

from __future__ import annotations

import fcntl
from pathlib import Path

import requests

from convserve.manifest import sha256_file
from convtrain import progress
from convtrain.errors import DownloadError

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
CHUNK_BYTES = 1 << 16


def fetch(url: str, destination: Path, sha256: str) -> Path:
    """Download `url` to `destination`, unless it is there already and whole. Returns `destination`.

    What arrived before a break stays in `<destination>.part` and the next call asks for the rest only. The file gets
    its name after its digest was verified. Safe to call from several processes: one downloads, the others wait.

    Args:
        url: HTTP address.
        destination: path of the file.
        sha256: digest of the file in hexadecimal digits.

    Raises:
        DownloadError: the server cannot be reached or refuses, the connection broke, or the content is another one.
    """
    if _is_whole(destination, sha256):
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(f"{destination.name}.part")
    with destination.with_name(f"{destination.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also when the process dies
        if _is_whole(destination, sha256):
            return destination
        try:
            _receive(url, part)
        except (requests.RequestException, OSError) as error:
            kept = part.stat().st_size if part.exists() else 0
            raise DownloadError(
                f"{url}: download failed ({error}); {kept:,} bytes are kept and the next try goes on from there. "
                "Without a connection, give local files with --data-dir"
            ) from error
        if (actual := sha256_file(part)) != sha256:
            size = part.stat().st_size
            part.unlink()  # nothing to resume from
            raise DownloadError(
                f"{url}: SHA-256 of the {size:,} bytes received is {actual}, expected {sha256}; the file was "
                "thrown away, try again"
            )
        part.replace(destination)
    return destination


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there with its content; after a power cut it may have its name without."""
    return path.exists() and sha256_file(path) == sha256


def _receive(url: str, part: Path) -> None:
    """Bring `part` to its full length."""
    have = part.stat().st_size if part.exists() else 0
    # Compression of the transfer would make the byte positions meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is here; the digest will tell
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(f"the server sent another range: {response.headers.get('Content-Range')!r}")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if resumed else "wb") as file,
            progress.bar(f"download {name}", total, done=have, unit="bytes") as advance,
        ):
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                advance(len(chunk))
    if total is not None and have != total:
        raise OSError(f"the connection ended after {have:,} of {total:,} bytes")
