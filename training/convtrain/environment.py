"""What computes: the machine and its libraries, for reports, for figures that depend on them, and for `doctor`."""

from __future__ import annotations

import platform
from pathlib import Path

from convserve import host
from convtrain import backend


def processor() -> str:
    """The processor's own name, such as `AMD EPYC 9B14`, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """System, processor, cores and libraries, as text by name."""
    found = host.inspect()
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": f"{found.affinity_cores} of {found.host_cores}",
        **backend.framework_versions(),
    }
