"""The client for threads: `client` is what callers see, `coalescer` gathers their images, `calls` makes the RPCs."""

from __future__ import annotations

from convserve.client.sync.client import Client

__all__ = ["Client"]
