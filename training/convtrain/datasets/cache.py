"""Where downloads and decoded folders are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def directory() -> Path:
    """Directory of cached data sets: `$CONVTRAIN_CACHE_DIR`, or the place the system has for such files."""
    if chosen := os.environ.get("CONVTRAIN_CACHE_DIR"):
        return Path(chosen)
    return platformdirs.user_cache_path("convserve") / "datasets"
