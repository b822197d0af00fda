"""What the pages on security say of settings is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from convserve.config import options

ROOT = Path(__file__).parents[2]
_SECTIONS = ("tls", "auth", "limits")


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/security.md"])
def test_settings_and_flags_exist(page: str) -> None:
    """A setting that was renamed is found here."""
    text = (ROOT / page).read_text()
    known = {".".join(option.path) for option in options()}
    named = set(re.findall(rf"\b(?:{'|'.join((*_SECTIONS, 'model'))})\.[a-z]+_[a-z_]+\b", text))
    assert named
    assert named <= known
    flags = set(re.findall(r"--[a-z]+(?:-[a-z]+)+", text))
    assert flags <= {option.flag for option in options()}


def test_every_setting_of_encryption_tokens_and_limits_is_told() -> None:
    """And one that is added must be put on the page; how connections age is a matter of operations."""
    text = (ROOT / "docs/security.md").read_text()
    wanted = {".".join(option.path) for option in options() if option.path[0] in _SECTIONS}
    assert [name for name in sorted(wanted - {"limits.max_connection_age_grace"}) if name not in text] == []
