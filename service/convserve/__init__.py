"""Classify images with a convserve server. This package's top holds the client; importing it stays light."""

from __future__ import annotations

__version__ = "0.1.0"
