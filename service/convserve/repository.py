"""What lies in a model repository: directories, read without trust and without loading anything."""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from convserve.errors import ArtifactError, ConfigError
from convserve.manifest import MANIFEST_FILE

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class FoundVersion:
    """A version directory that has a manifest; nothing in it was checked yet."""

    model: str
    version: int
    directory: Path


def scan(root: Path) -> dict[str, dict[int, FoundVersion]]:
    """Find the versions of every model.

    A version is a directory named by a positive integer that holds a manifest; the manifest is written last, so a
    directory without one is still being copied and is not a version yet. Names that start with a dot are never models.

    Returns:
        By model name and version number. Models without a version are listed empty.

    Raises:
        ConfigError: there is no such directory, or it cannot be read.
    """
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise ConfigError(
            f"model_repository: {root} cannot be read ({error.strerror}); it must be a directory with one folder per"
            " model, each with one folder per version"
        ) from error
    return {
        entry.name: _versions(entry)
        for entry in entries
        if _MODEL_NAME.fullmatch(entry.name) and _is(entry, stat.S_ISDIR, unreadable=False)
    }


def check_inside(root: Path, directory: Path, names: Iterable[str]) -> None:
    """Refuse a version whose files lie elsewhere: symbolic links may lead about the repository, never out of it.

    Args:
        root: the repository.
        directory: the version's.
        names: files of the version, relative to it.

    Raises:
        ArtifactError: one leads out; names it.
    """
    home = root.resolve()
    for name in names:
        path = directory / name
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # a circle of links
            raise ArtifactError(f"{path}: leads nowhere ({error})") from error
        if not real.is_relative_to(home):
            raise ArtifactError(f"{path}: is a link that leads out of the repository {root}")


def _versions(directory: Path) -> dict[int, FoundVersion]:
    try:
        entries = list(directory.iterdir())
    except OSError:  # deleted while we looked, or not readable: no version that could be served
        return {}
    return {
        int(entry.name): FoundVersion(directory.name, int(entry.name), entry)
        for entry in entries
        if _VERSION.fullmatch(entry.name) and _is(entry / MANIFEST_FILE, stat.S_ISREG, unreadable=True)
    }


def _is(path: Path, kind: Callable[[int], bool], *, unreadable: bool) -> bool:
    """Whether a path is of a kind; `unreadable` when nobody lets us look.

    `Path.is_file` and `Path.is_dir` raise then: one version without the right permissions, or on a volume that has gone
    away, would hide all others. Such a version is found here, and fails with its reason when it is loaded.
    """
    try:
        return kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return unreadable and error.errno != errno.ELOOP
