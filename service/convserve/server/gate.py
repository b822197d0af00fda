"""Tokens for the services that are not ours, health and reflection; our own methods check theirs in the guard."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from convserve.errors import ConvserveError
from convserve.server.access import Access, Group
from convserve.server.health import SERVICE as HEALTH_SERVICE
from convserve.server.reflection import SERVICE as REFLECTION_SERVICE
from convserve.server.status import status_of

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_GROUPS = {HEALTH_SERVICE: Group.HEALTH, REFLECTION_SERVICE: Group.METADATA}


def interceptors(access: Access) -> list[grpc.ServerInterceptor]:
    """What a server needs; nothing when these services are open, since interceptors cost every call."""
    return [_Gate(access)] if any(access.needs_token(group) for group in _GROUPS.values()) else []


class _Gate(grpc.ServerInterceptor):
    def __init__(self, access: Access) -> None:
        self._access = access

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Let a call through, or put a refusal in the place of its method."""
        group = _GROUPS.get(handler_call_details.method[1:].partition("/")[0])
        if group is not None:
            try:
                self._access.check(group, handler_call_details.invocation_metadata)
            except ConvserveError as error:
                return _refusal(error)
        return continuation(handler_call_details)


def _refusal(error: ConvserveError) -> _Handler:
    """Ends a call of any kind with an error, before a message is read: on the wire, all kinds are streams."""

    def refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.abort_with_status(status_of(error, secrets.token_hex(8)))

    return grpc.stream_stream_rpc_method_handler(refuse)
