"""What this machine, or the container on it, lets the process use.

onnxruntime and TensorFlow size their thread pools from the host's cores. In a container with a quota of two cores on a
host of ninety-six that means ninety-six threads that take turns. So the decision is made here, from what the process
may really use, and shown.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

_V1_UNLIMITED_BYTES = 2**60
"""cgroup v1 tells "no limit" as a huge number."""


@dataclass(frozen=True)
class Host:
    """What was found."""

    host_cores: int
    """Cores of the machine."""
    affinity_cores: int
    """Cores this process may be scheduled on: its affinity, which a cpuset narrows too."""
    quota_cores: float | None
    """Cores' worth of time that the cgroup allows, such as 1.5; None without a quota."""
    memory_bytes: int | None
    """Memory that the cgroup allows; None without a limit."""

    @property
    def cores(self) -> int:
        """Threads that can run at the same time, at least 1. A fraction of a core is no core: it would be throttled."""
        quota = self.affinity_cores if self.quota_cores is None else int(self.quota_cores)
        return max(1, min(self.affinity_cores, quota))


@dataclass(frozen=True)
class CpuPlan:
    """How the cores are shared out."""

    workers: int
    """Server processes."""
    intra_op_threads: int
    """Threads that compute one batch, in each worker."""


def plan(host: Host, workers: int | Literal["auto"], intra_op_threads: int) -> CpuPlan:
    """Share the cores out. `auto` workers: one for each core; 0 threads: what is left for each worker, at least one."""
    count = host.cores if workers == "auto" else workers
    return CpuPlan(count, intra_op_threads or max(1, host.cores // count))


def allow_files(count: int) -> int:
    """Let this process, and those that it starts, open so many files and connections. Returns how many it may.

    Shells start programs with a soft limit of 1024, far below the hard one, for those that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        with contextlib.suppress(OSError, ValueError):  # the system may allow less than the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def inspect(root: Path = Path("/")) -> Host:
    """Read affinity and cgroup limits, v1 or v2; `root` is where `proc` and `sys` are mounted."""
    count = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    groups = _own_cgroups(root)
    quotas = [*_v2_quotas(root, groups), *_v1_quotas(root, groups)]
    limits = [*_v2_memory(root, groups), *_v1_memory(root, groups)]
    return Host(count, affinity, min(quotas, default=None), min(limits, default=None))


def _own_cgroups(root: Path) -> dict[str, str]:
    """Path of this process's cgroup by controller; the key of v2's single tree is empty."""
    groups = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _levels(base: Path, path: str) -> list[Path]:
    """The cgroup's directory and those above it: every level limits. In a container only the last one may exist."""
    relative = PurePosixPath(path.lstrip("/"))
    return [base / level for level in (relative, *relative.parents)]


def _v2_quotas(root: Path, groups: dict[str, str]) -> list[float]:
    found = []
    for level in _levels(root / "sys/fs/cgroup", groups.get("", "/")):
        quota, _, period = _read(level / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    return found


def _v1_quotas(root: Path, groups: dict[str, str]) -> list[float]:
    found = []
    for level in _levels(root / "sys/fs/cgroup/cpu", groups.get("cpu", "/")):
        quota, period = (_read(level / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit():  # -1: no quota
            found.append(int(quota) / int(period))
    return found


def _v2_memory(root: Path, groups: dict[str, str]) -> list[int]:
    texts = (_read(level / "memory.max").strip() for level in _levels(root / "sys/fs/cgroup", groups.get("", "/")))
    return [int(text) for text in texts if text.isdigit()]


def _v1_memory(root: Path, groups: dict[str, str]) -> list[int]:
    levels = _levels(root / "sys/fs/cgroup/memory", groups.get("memory", "/"))
    texts = (_read(level / "memory.limit_in_bytes").strip() for level in levels)
    return [int(text) for text in texts if text.isdigit() and int(text) < _V1_UNLIMITED_BYTES]


def _read(path: Path) -> str:
    """A small file's text; empty when there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
