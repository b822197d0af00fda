"""The list of licences fits what is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| ([a-z0-9.-]+) \| (\S+) \| (.+) \| ([a-z, ]+) \|$", re.MULTILINE)
SHIPPED = sorted({path.stem for path in (ROOT / "requirements").glob("*.txt")} - {"dev", "build", "generate"})
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[str, str, set[str]]]:
    """Version, licence and sets of each package on the page."""
    page = (ROOT / "docs" / "licences.md").read_text()
    return {row[1]: (row[2], row[3], set(row[4].split(", "))) for row in _ROW.finditer(page)}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_package_that_is_shipped_is_listed(rows: dict[str, tuple[str, str, set[str]]], name: str) -> None:
    """After a change of the pins: python scripts/licences.py."""
    pinned = {found[1].lower() for found in _PIN.finditer((ROOT / "requirements" / f"{name}.txt").read_text())}
    assert pinned == {package for package, (_, _, sets) in rows.items() if name in sets}


def test_no_licence_asks_for_our_source(rows: dict[str, tuple[str, str, set[str]]]) -> None:
    """A package under the GPL or AGPL could not be shipped with the rest; the LGPL and the MPL could."""
    strict = re.compile(r"\bA?GPL|GNU (Affero )?General Public")
    assert rows
    assert [package for package, (_, licence, _) in rows.items() if strict.search(licence)] == []
