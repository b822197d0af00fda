"""What the benchmark says of its peers is what their pins install."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.environments import NAMES

PINS = Path(__file__).parents[2] / "benchmarks/peers/requirements"
FOREIGN = [peer for peer in PEERS if peer.environment]


@pytest.mark.parametrize("peer", FOREIGN, ids=lambda peer: peer.name)
def test_versions_are_the_pinned_ones(peer: Peer) -> None:
    """Every package that is named with a version."""
    pinned = dict(re.findall(r"^([a-z-]+)==([\d.]+)", (PINS / f"{peer.environment}.txt").read_text(), re.MULTILINE))
    named = [(name, version) for name, version in re.findall(r"([a-z-]+) (\d+\.[\d.]*\d)", peer.about)]
    assert named or peer.about.startswith("the same")
    assert all(pinned[name] == version for name, version in named)


def test_every_environment_has_pins_with_hashes() -> None:
    """And none names an address."""
    assert {peer.environment for peer in FOREIGN} <= set(NAMES)
    for file in PINS.glob("*.txt"):
        text = file.read_text()
        assert text.count("--hash=sha256:") >= text.count("==")
        assert "://" not in text
