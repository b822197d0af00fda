"""Classify images with a convserve server.

This top of the package offers the client and the errors. Names are loaded when they are first used, so that importing
a part of the package, the server for one, does not load the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convserve.client import (
        AsyncClient,
        BatchInfo,
        Classification,
        Client,
        ImageLike,
        ModelInfo,
        Prediction,
        Retry,
        Tls,
        VersionInfo,
    )
    from convserve.errors import (
        CancelledError,
        ClosedError,
        ConfigError,
        ConvserveError,
        DeadlineError,
        FieldViolation,
        InternalError,
        InvalidRequestError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        UnauthenticatedError,
        UnavailableError,
        UnsupportedError,
        VersionNotAvailableError,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BatchInfo",
    "CancelledError",
    "Classification",
    "Client",
    "ClosedError",
    "ConfigError",
    "ConvserveError",
    "DeadlineError",
    "FieldViolation",
    "ImageLike",
    "InternalError",
    "InvalidRequestError",
    "ModelInfo",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "Prediction",
    "Retry",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "VersionInfo",
    "VersionNotAvailableError",
]

_FROM_CLIENT = {
    "AsyncClient",
    "BatchInfo",
    "Classification",
    "Client",
    "ImageLike",
    "ModelInfo",
    "Prediction",
    "Retry",
    "Tls",
    "VersionInfo",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("convserve.client" if name in _FROM_CLIENT else "convserve.errors")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names, those not loaded yet included."""
    return sorted({*globals(), *__all__})
