"""Tokens by group of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog

from convserve.config import AuthSettings, Settings
from convserve.errors import ConfigError, PermissionDeniedError, UnauthenticatedError
from convserve.server.access import Access, Group
from support.clock import Clock

USER, ADMIN, OTHER = "user-token-0123456789", "admin-token-0123456789", "other-token-0123456789"


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def file_with(directory: Path, name: str, *tokens: str) -> str:
    path = directory / name
    path.write_text("# who has it: the tests\n\n" + "\n".join(tokens) + "\n")
    return str(path)


@pytest.fixture
def access(tmp_path: Path) -> Access:
    settings = AuthSettings(
        inference_tokens_file=file_with(tmp_path, "inference", USER, ADMIN),
        admin_tokens_file=file_with(tmp_path, "admin", ADMIN),
    )
    found = Access(settings)
    found.load()
    return found


def test_without_files_everything_is_open() -> None:
    """A server that was told no tokens asks for none."""
    access = Access(AuthSettings())
    access.load()
    assert access.open
    for group in Group:
        access.check(group, [])


def test_a_token_allows_the_groups_whose_file_holds_it(access: Access) -> None:
    """The groups are separate: a token for classifying does not load models."""
    access.check(Group.INFERENCE, bearer(USER))
    access.check(Group.INFERENCE, bearer(ADMIN))
    access.check(Group.ADMIN, bearer(ADMIN))
    with pytest.raises(PermissionDeniedError, match="does not allow admin methods"):
        access.check(Group.ADMIN, bearer(USER))


def test_groups_without_a_file_stay_open(access: Access) -> None:
    """Probes bring no token."""
    access.check(Group.HEALTH, [])
    access.check(Group.METADATA, bearer("whatever"))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([], "no token came"),
        ([("authorization", "Basic dXNlcjpwYXNz")], "must be: Bearer TOKEN"),
        ([("authorization", "Bearer")], "must be: Bearer TOKEN"),
        ([("authorization", b"Bearer " + USER.encode())], "must be: Bearer TOKEN"),
        (bearer(""), "not valid here"),
        (bearer(OTHER), "not valid here"),
        (bearer(USER + "x"), "not valid here"),
        (bearer(USER[:-1]), "not valid here"),
        (bearer("ü\udc80"), "not valid here"),
    ],
)
def test_without_a_valid_token_a_call_is_unauthenticated(access: Access, metadata: Any, words: str) -> None:
    """What came is refused, and the sentence says what is wanted, never what is valid."""
    with pytest.raises(UnauthenticatedError, match=words) as caught:
        access.check(Group.INFERENCE, metadata)
    assert USER not in str(caught.value)


def test_the_scheme_has_no_case(access: Access) -> None:
    """RFC 9110: schemes of authentication are not case-sensitive."""
    access.check(Group.INFERENCE, [("authorization", f"bEARER {USER}")])


def test_tokens_rotate_without_a_restart(tmp_path: Path) -> None:
    """A new token counts beside the old one once the file changed, and a token that is gone no longer counts."""
    clock = Clock()
    path = file_with(tmp_path, "inference", USER)
    access = Access(AuthSettings(inference_tokens_file=path), clock)
    access.load()
    file_with(tmp_path, "inference", USER, OTHER)
    with pytest.raises(UnauthenticatedError):  # nobody looks at files for every call
        access.check(Group.INFERENCE, bearer(OTHER))
    clock.now += 1
    access.check(Group.INFERENCE, bearer(OTHER))
    access.check(Group.INFERENCE, bearer(USER))
    file_with(tmp_path, "inference", OTHER)
    clock.now += 1
    access.check(Group.INFERENCE, bearer(OTHER))
    with pytest.raises(UnauthenticatedError):
        access.check(Group.INFERENCE, bearer(USER))


def test_tokens_rotate_when_a_link_is_moved(tmp_path: Path) -> None:
    """Kubernetes changes a mounted secret by moving a link to its directory."""
    clock = Clock()
    for name, token in (("old", USER), ("new", OTHER)):
        (tmp_path / name).mkdir()
        file_with(tmp_path / name, "tokens", token)
    (tmp_path / "data").symlink_to("old")
    access = Access(AuthSettings(inference_tokens_file=str(tmp_path / "data" / "tokens")), clock)
    access.load()
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(tmp_path / "data")
    clock.now += 1
    access.check(Group.INFERENCE, bearer(OTHER))


def test_a_file_that_disappears_changes_nothing(tmp_path: Path) -> None:
    """A mount that fails for a moment locks nobody out; the log says it once."""
    clock = Clock()
    path = Path(file_with(tmp_path, "inference", USER))
    access = Access(AuthSettings(inference_tokens_file=str(path)), clock)
    access.load()
    path.unlink()
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            clock.now += 1
            access.check(Group.INFERENCE, bearer(USER))
    assert [line["event"] for line in logs] == ["tokens were not reloaded; those read before stay valid"]


def test_permissions_that_were_mended_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation that writes first and sets permissions afterwards must not leave the old tokens valid for ever."""
    clock = Clock()
    path = Path(file_with(tmp_path, "inference", USER))
    access = Access(AuthSettings(inference_tokens_file=str(path)), clock)
    access.load()
    file_with(tmp_path, "inference", OTHER)
    with monkeypatch.context() as refused:
        refused.setattr(Path, "read_text", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
        clock.now += 1
        access.check(Group.INFERENCE, bearer(USER))
    path.chmod(0o600)
    clock.now += 1
    with pytest.raises(UnauthenticatedError):
        access.check(Group.INFERENCE, bearer(USER))
    access.check(Group.INFERENCE, bearer(OTHER))


@pytest.mark.parametrize("content", ["", "# none\n", f"{OTHER}\nbroken line\n"])
def test_what_was_taken_out_is_withdrawn_whatever_else_is_wrong(tmp_path: Path, content: str) -> None:
    """A leaked token that was taken out of the file is refused, also when the rest of the file is empty or broken."""
    clock = Clock()
    path = Path(file_with(tmp_path, "inference", USER))
    access = Access(AuthSettings(inference_tokens_file=str(path)), clock)
    access.load()
    path.write_text(content)
    clock.now += 1
    with structlog.testing.capture_logs() as logs, pytest.raises(UnauthenticatedError):
        access.check(Group.INFERENCE, bearer(USER))
    assert [line["log_level"] for line in logs] == ["error"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no token"),
        (b"# nothing yet\n", "holds no token"),
        (b"short\n", "line 1, is no bearer token"),
        (b"0123456789abcdef\nwith a space in it\n", "line 2, is no bearer token"),
        (b"\xff\xfe", "not text"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, content: bytes, words: str) -> None:
    """A server that should ask for tokens never starts without them. The error does not show what stands in a file."""
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"auth\.metadata_tokens_file") as caught:
        Access(AuthSettings(metadata_tokens_file=str(path))).load()
    assert words in str(caught.value)
    assert "with a space" not in str(caught.value)


def test_a_missing_file_ends_the_start(tmp_path: Path) -> None:
    """The error names the setting and the file."""
    with pytest.raises(ConfigError, match=r"auth\.admin_tokens_file: .*nowhere cannot be read"):
        Access(AuthSettings(admin_tokens_file=str(tmp_path / "nowhere"))).load()


def test_admin_methods_are_never_the_only_ones_without_tokens() -> None:
    """Where classifying needs a token, loading models does too."""
    with pytest.raises(ValueError, match=r"auth\.admin_tokens_file is empty"):
        Settings(admin_methods=True, auth=AuthSettings(inference_tokens_file="tokens"))
