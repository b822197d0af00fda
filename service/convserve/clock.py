"""The clock, as something that tests can hold still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Gives seconds that never go backwards. Every deadline inside the server is a reading of this clock."""

monotonic: Clock = time.monotonic
