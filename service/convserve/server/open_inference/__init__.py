"""The Open Inference Protocol, version 2: what Triton's and KServe's clients speak. Messages to values and back.

::

    servicer.py    the methods
    request.py     ModelInferRequest -> engine.Request      parameters.py  tensors.py
    reply.py       engine.Result -> ModelInferResponse      explain.py
    describe.py    metadata and configuration of a model    statistics.py  repository.py
"""

from __future__ import annotations

from convserve.server.open_inference.servicer import SERVICE, OpenInferenceServicer

__all__ = ["SERVICE", "OpenInferenceServicer"]
