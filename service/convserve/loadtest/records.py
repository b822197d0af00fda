"""What a client process notes of every request, and sends on in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from convserve.loadtest.workload import Check

RECORD = np.dtype(
    [
        ("intended", "f8"),  # seconds from the start of the run
        ("sent", "f8"),
        ("done", "f8"),
        ("code", "u1"),  # gRPC status; 0 is OK
        ("good", "?"),  # no wrong answer in it
        ("rows", "u2"),
        ("queue", "f4"),  # the server's account in seconds; -1 unknown
        ("wait", "f4"),
        ("run", "f4"),
        ("batch", "u2"),  # rows of the batch it ran in; 0 unknown
    ]
)
"""One request."""

Records = NDArray[np.void]
"""Requests, as `RECORD`."""


@dataclass
class ClientStats:
    """How a client process fared, in the measured time."""

    seconds: float = 0.0
    """Length of the measured time."""
    cpu_seconds: float = 0.0
    """CPU time of the process, user and system."""
    busy_seconds: float = 0.0
    """Time that its one thread did not spend waiting for something to do."""
    starved_seconds: float = 0.0
    """Time that it was ready to run and had no core; 0 where the system does not tell."""
    held_back: int = 0
    """How often a request could not be sent because every connection had as many calls as the server allows."""
    check: Check = field(default_factory=Check)
    """What comparing answers found."""
    details: dict[int, str] = field(default_factory=dict)
    """The first text that came with each gRPC status."""
