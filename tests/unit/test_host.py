"""What a container allows, read from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

from convserve import host


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def test_without_limits_the_affinity_counts(tmp_path: Path) -> None:
    """No cgroup files: what the scheduler allows."""
    found = host.inspect(tmp_path)
    assert found == host.Host(96, 8, None, None)
    assert found.cores == 8


def test_cgroup_v2_in_a_container(tmp_path: Path) -> None:
    """With a namespace of its own, the limits lie at the root."""
    root = tree(
        tmp_path,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__cpuDOTmax="250000 100000\n",
        sys__fs__cgroup__memoryDOTmax="536870912\n",
    )
    found = host.inspect(root)
    assert (found.quota_cores, found.memory_bytes, found.cores) == (2.5, 512 * 2**20, 2)


def test_cgroup_v2_takes_the_tightest_level(tmp_path: Path) -> None:
    """A slice above may allow less than the unit itself."""
    root = tree(
        tmp_path,
        proc__self__cgroup="0::/a/b\n",
        sys__fs__cgroup__a__cpuDOTmax="100000 100000\n",
        sys__fs__cgroup__a__b__cpuDOTmax="max 100000\n",
        sys__fs__cgroup__a__b__memoryDOTmax="max\n",
    )
    assert host.inspect(root).quota_cores == 1.0
    assert host.inspect(root).memory_bytes is None


def test_cgroup_v1(tmp_path: Path) -> None:
    """-1 and huge numbers mean no limit."""
    root = tree(
        tmp_path,
        proc__self__cgroup="4:memory:/x\n3:cpu,cpuacct:/x\n",
        sys__fs__cgroup__cpu__x__cpuDOTcfs_quota_us="50000\n",
        sys__fs__cgroup__cpu__x__cpuDOTcfs_period_us="100000\n",
        sys__fs__cgroup__cpu__cpuDOTcfs_quota_us="-1\n",
        sys__fs__cgroup__cpu__cpuDOTcfs_period_us="100000\n",
        sys__fs__cgroup__memory__x__memoryDOTlimit_in_bytes="9223372036854771712\n",
    )
    found = host.inspect(root)
    assert (found.quota_cores, found.memory_bytes, found.cores) == (0.5, None, 1)


@pytest.mark.parametrize(
    ("workers", "threads", "planned"),
    [("auto", 0, (8, 1)), (1, 0, (1, 8)), (3, 0, (3, 2)), (16, 0, (16, 1)), ("auto", 4, (8, 4)), (2, 1, (2, 1))],
)
def test_cores_are_shared_out(
    tmp_path: Path, workers: int | Literal["auto"], threads: int, planned: tuple[int, int]
) -> None:
    """`auto` and 0 decide; a number is obeyed."""
    assert host.plan(host.inspect(tmp_path), workers, threads) == host.CpuPlan(*planned)
