"""A server of several processes: which there are, and what each uses of CPU and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Of one process, in MB (10^6 bytes)."""

    resident: float
    """All pages it has in memory, those it shares included."""
    unshared: float
    """Pages that no other process has: what ending it would free."""


def children(pid: int) -> list[int]:
    """Processes that this one started, in whichever of its threads. For a supervisor: its workers."""
    by_thread = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for children in by_thread for child in children.read_text().split())


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used so far, user and system, threads that have ended included; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> Memory:
    """What the kernel tells of a process's pages."""
    kb: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        kb[name] = int(value.split()[0])
    return Memory(kb["Rss"] * 1024 / 1e6, (kb["Private_Clean"] + kb["Private_Dirty"]) * 1024 / 1e6)
