"""Who may call what: bearer tokens by group of methods. Knows no transport; it is given the call's metadata."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

import structlog

from convserve.clock import Clock, monotonic
from convserve.config import AuthSettings
from convserve.errors import ConfigError, PermissionDeniedError, UnauthenticatedError
from convserve.server.watched import Watched

log = structlog.get_logger(__name__)

AUTHORIZATION_KEY = "authorization"
_SCHEME = "bearer "
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}=*")
"""A bearer token as RFC 6750 writes it, long enough not to be guessed."""


class Group(enum.Enum):
    """Methods that are allowed or refused together."""

    INFERENCE = "inference"
    METADATA = "metadata"
    ADMIN = "admin"
    HEALTH = "health"


class Access:
    """Checks the tokens of calls. `load` first. Thread-safe.

    A group without a file is open. Files are read again when they change, so a token is added or withdrawn without a
    restart; a file that can no longer be read leaves its tokens as they were.
    """

    def __init__(self, settings: AuthSettings, clock: Clock = monotonic) -> None:
        """Check by the files that `settings` names."""
        files = {
            Group.INFERENCE: settings.inference_tokens_file,
            Group.METADATA: settings.metadata_tokens_file,
            Group.ADMIN: settings.admin_tokens_file,
            Group.HEALTH: settings.health_tokens_file,
        }
        self._files = {
            group: _TokenFile(f"auth.{group.value}_tokens_file", Path(path), clock)
            for group, path in files.items()
            if path
        }
        self.open = not self._files
        """Whether every call is allowed, so that nothing needs to be checked."""

    def load(self) -> None:
        """Read the files.

        Raises:
            ConfigError: one cannot be read, or holds no tokens; names the setting, the file and the line.
        """
        for file in self._files.values():
            file.load()

    def needs_token(self, group: Group) -> bool:
        """Whether calls of the group are checked."""
        return group in self._files

    def check(self, group: Group, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Refuse a call that may not be made.

        Args:
            group: of the method.
            metadata: what came with the call, keys in lower case as HTTP/2 has them.

        Raises:
            UnauthenticatedError: no token came, or one that is valid for nothing.
            PermissionDeniedError: the token is valid, for other groups.
        """
        if group not in self._files:
            return
        for file in self._files.values():
            file.reload()
        digest = _digest(_token_in(metadata))
        # Every comparison is made, whatever the ones before said: the time tells nothing about the tokens.
        allowed = {one: file.holds(digest) for one, file in self._files.items()}
        if allowed[group]:
            return
        if any(allowed.values()):
            raise PermissionDeniedError(f"the token does not allow {group.value} methods")
        raise UnauthenticatedError("the token is not valid here")


class _TokenFile:
    """The tokens in a file: one in each line, with empty lines and `#` comments between them."""

    def __init__(self, setting: str, path: Path, clock: Clock) -> None:
        self._setting = setting
        self._path = path
        self._watched = Watched([path], clock)
        self._digests: tuple[bytes, ...] = ()

    def load(self) -> None:
        """Take the tokens for the first time.

        Raises:
            ConfigError: there are none, a line is none, or they cannot be read.
        """
        self._watched.changed()
        self._digests, problem = self._read()
        if problem:
            raise ConfigError(problem)

    def reload(self) -> None:
        """Take the tokens again if the file has changed.

        What stands in the file counts, so that a token taken out is withdrawn whatever else is wrong there. A file that
        cannot be read says nothing: the tokens stay as they were. Both are logged, once.
        """
        if not self._watched.changed():
            return
        try:
            self._digests, problem = self._read()
        except ConfigError as error:
            log.error("tokens were not reloaded; those read before stay valid", reason=str(error))
            return
        if problem:
            log.error("tokens reloaded, and something is wrong with them", reason=problem, tokens=len(self._digests))
        else:
            log.info("tokens reloaded", setting=self._setting, tokens=len(self._digests))

    def _read(self) -> tuple[tuple[bytes, ...], str]:
        """The digests of the tokens, and what is wrong with the file; it never shows a token.

        Raises:
            ConfigError: the file cannot be read.
        """
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{self._setting}: {self._path} cannot be read ({reason})") from error
        digests, problem = [], ""
        for number, line in enumerate(map(str.strip, lines), 1):
            if _TOKEN.fullmatch(line):
                digests.append(_digest(line))
            elif line and not line.startswith("#"):
                problem = (
                    f"{self._setting}: {self._path}, line {number}, is no bearer token: 16 or more of the characters"
                    " A-Z a-z 0-9 . _ ~ + / -, then perhaps ="
                )
        if not digests:
            problem = problem or f"{self._setting}: {self._path} holds no token; one in each line is wanted"
        return tuple(digests), problem

    def holds(self, digest: bytes) -> bool:
        """Whether the token with this digest is in the file; takes as long either way."""
        found = False
        for own in self._digests:
            found |= hmac.compare_digest(own, digest)
        return found


def _token_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == AUTHORIZATION_KEY:
            if isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                return value[len(_SCHEME) :].strip()
            raise UnauthenticatedError(f"the metadata {AUTHORIZATION_KEY!r} must be: Bearer TOKEN")
    raise UnauthenticatedError(f"no token came; send the metadata {AUTHORIZATION_KEY!r}: Bearer TOKEN")


def _digest(token: str) -> bytes:
    """What is kept and compared instead of a token: as long for every token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
