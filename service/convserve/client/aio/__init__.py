"""The client for asyncio: `client` is what callers see, `coalescer` gathers their images, `calls` makes the RPCs."""

from __future__ import annotations

from convserve.client.aio.client import AsyncClient

__all__ = ["AsyncClient"]
