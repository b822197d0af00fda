"""The client's half of HTTP/2, as far as unary gRPC needs it; a pure object between bytes and calls.

A load generator has to be much cheaper than what it loads, and grpcio's own client costs about as much per call as a
whole gRPC server. This one keeps to what RFC 9113 and gRPC's "gRPC over HTTP2" ask of a client, and leaves out what a
load test does not need: push, priorities, compression of messages.

It announces a header table of size 0, so that equal header blocks mean equal headers and are decoded once.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import hpack

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 3, 4, 5
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_LAST_STREAM = 2**31 - 1
_CANCEL = 8

_FROM_RESET = {0: 13, 7: 14, 8: 1, 11: 8, 12: 7}
"""gRPC's status for an HTTP/2 error code of a reset stream; INTERNAL for all others."""
_FROM_HTTP = {b"400": 13, b"401": 16, b"403": 7, b"404": 12, b"429": 14, b"502": 14, b"503": 14, b"504": 14}
"""gRPC's status for an HTTP status without a gRPC status; UNKNOWN for all others."""

_STATUSES = {str(code).encode() for code in range(17)}
"""gRPC's, as they travel; all others are UNKNOWN."""

UNKNOWN, INTERNAL, UNAVAILABLE = 2, 13, 14


class ProtocolError(Exception):
    """What came is no HTTP/2; the connection cannot go on."""


@dataclass(slots=True)
class Reply:
    """How one call ended."""

    stream: int
    """The stream that `send` returned."""
    code: int
    """gRPC's status; 0 is OK."""
    message: bytes
    """The message; empty unless the call succeeded."""
    detail: str = ""
    """What the server said about a failure."""


@dataclass(slots=True)
class _Stream:
    """A call under way."""

    window: int
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    """A view: to cut megabytes anew for every frame would take longer than the server does."""
    body: list[bytes] = field(default_factory=list)
    status: bytes = b""


def frame_message(message: bytes) -> bytes:
    """A message as gRPC sends it: a flag, its length, itself."""
    return struct.pack(">BI", 0, len(message)) + message


class Connection:
    """One HTTP/2 connection that calls one method. Not thread-safe."""

    def __init__(
        self,
        authority: str,
        path: str,
        timeout_seconds: float,
        metadata: Sequence[tuple[str, str]] = (),
        *,
        scheme: str = "http",
    ) -> None:
        """Prepare; the bytes that open the connection lie in `output` at once.

        Args:
            authority: HOST:PORT of the server.
            path: `/package.Service/Method`.
            timeout_seconds: what each call tells the server as its time limit.
            metadata: headers of every call.
            scheme: `http` or `https`.
        """
        self.output = bytearray(_PREFACE)
        """Bytes to send; the owner takes away what it has sent."""
        self.closing = False
        """The server takes no new calls here; open another connection."""
        self._headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "convserve-loadtest"),
            ("grpc-timeout", _timeout(timeout_seconds)),
            *metadata,
        ]
        self._encoder = hpack.Encoder()
        self._block: bytes = b""
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
        self._decoded: dict[bytes, dict[bytes, bytes]] = {}
        self._streams: dict[int, _Stream] = {}
        self._next_stream = 1
        self._input = bytearray()
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._max_frame = 16_384
        self._max_streams = _LARGEST_WINDOW
        self._blocked: deque[int] = deque()
        self._received = 0
        self._partial: tuple[int, int, bytearray] | None = None
        settings = {_HEADER_TABLE_SIZE: 0, _ENABLE_PUSH: 0, _INITIAL_WINDOW: _LARGEST_WINDOW}
        self._frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in settings.items()))
        self._frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW))

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return len(self._streams)

    @property
    def ready(self) -> bool:
        """Whether a call may be sent now."""
        return not self.closing and len(self._streams) < self._max_streams and self._next_stream < _LAST_STREAM

    def send(self, framed: bytes) -> int:
        """Begin a call with a message from `frame_message`. Returns its stream. Only when `ready`."""
        stream = self._next_stream
        self._next_stream += 2
        if not self._block:  # the first time, names and values travel; from then on their places in the table
            block, self._block = self._encoder.encode(self._headers), self._encoder.encode(self._headers)
        else:
            block = self._block
        self._frame(_HEADERS, _END_HEADERS, stream, block)
        size = len(framed)
        if size <= self._max_frame and size <= self._window and size <= self._stream_window and not self._blocked:
            self._frame(_DATA, _END_STREAM, stream, framed)
            self._window -= size
            self._streams[stream] = _Stream(self._stream_window - size)
        else:
            self._streams[stream] = _Stream(self._stream_window, memoryview(framed))
            self._blocked.append(stream)
            self._flush()
        return stream

    def cancel(self, stream: int) -> None:
        """Give a call up; nothing more is heard of it."""
        if self._streams.pop(stream, None) is not None:
            self._frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))

    def receive(self, data: bytes) -> list[Reply]:
        """Take bytes that came. Returns the calls that ended with them.

        Raises:
            ProtocolError: the bytes make no sense; fail the calls that are open and close the connection.
        """
        buffer = self._input
        buffer += data
        replies: list[Reply] = []
        position, end = 0, len(buffer)
        while end - position >= 9:
            length = int.from_bytes(buffer[position : position + 3], "big")
            if end - position - 9 < length:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream = int.from_bytes(buffer[position + 5 : position + 9], "big") & _LARGEST_WINDOW
            payload = bytes(buffer[position + 9 : position + 9 + length])
            position += 9 + length
            reply = self._take(kind, flags, stream, payload)
            if reply is not None:
                replies.append(reply)
            if kind == _GOAWAY:
                replies.extend(self._go_away(payload))
        del buffer[:position]
        if self._received >= 2**30:  # give the server its window back long before it runs out
            self._frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
            self._received = 0
        return replies

    def fail(self, detail: str) -> list[Reply]:
        """The connection is lost. Returns all open calls as UNAVAILABLE."""
        self.closing = True
        lost = [Reply(stream, UNAVAILABLE, b"", detail) for stream in self._streams]
        self._streams.clear()
        return lost

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> Reply | None:
        """Handle one frame."""
        if kind in (_DATA, _HEADERS) and flags & _PADDED:
            payload = payload[1 : len(payload) - int.from_bytes(payload[:1], "big")]
        if kind == _DATA:
            self._received += len(payload)
            if (call := self._streams.get(stream)) is not None:
                call.body.append(payload)
                if flags & _END_STREAM:
                    return self._end(stream, {})
        elif kind == _HEADERS:
            if flags & _PRIORITY:
                payload = payload[5:]
            if not flags & _END_HEADERS:
                self._partial = (stream, flags, bytearray(payload))
                return None
            return self._headers_came(stream, flags, payload)
        elif kind == _CONTINUATION:
            if self._partial is None:
                raise ProtocolError("a CONTINUATION frame came without HEADERS before it")
            first, first_flags, block = self._partial
            block += payload
            if flags & _END_HEADERS:
                self._partial = None
                return self._headers_came(first, first_flags, bytes(block))
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big") & _LARGEST_WINDOW
            if stream == 0:
                self._window += increment
            elif (call := self._streams.get(stream)) is not None:
                call.window += increment
            self._flush()
        elif kind == _RST_STREAM and self._streams.pop(stream, None) is not None:
            code = int.from_bytes(payload, "big")
            return Reply(stream, _FROM_RESET.get(code, INTERNAL), b"", f"the server reset the stream ({code})")
        return None

    def _headers_came(self, stream: int, flags: int, block: bytes) -> Reply | None:
        headers = self._decoded.get(block)
        if headers is None:
            try:
                headers = {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
            except hpack.HPACKError as error:
                raise ProtocolError(f"a header block cannot be decoded: {error}") from error
            if len(self._decoded) < 1000 and len(block) < 512:
                self._decoded[block] = headers
        call = self._streams.get(stream)
        if call is None:
            return None
        if b":status" in headers:
            call.status = headers[b":status"]
        return self._end(stream, headers) if flags & _END_STREAM else None

    def _end(self, stream: int, trailers: dict[bytes, bytes]) -> Reply:
        """The server has ended a stream."""
        call = self._streams.pop(stream)
        if call.unsent:  # an early answer: what is left of the request is not wanted
            self._frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))
        found = trailers.get(b"grpc-status")
        if found is None:
            code = _FROM_HTTP.get(call.status, UNKNOWN)
            return Reply(stream, code, b"", f"HTTP status {call.status.decode()} without a gRPC status")
        if found != b"0":
            code = int(found) if found in _STATUSES else UNKNOWN
            return Reply(stream, code, b"", unquote(trailers.get(b"grpc-message", b"").decode("latin-1")))
        body = call.body[0] if len(call.body) == 1 else b"".join(call.body)
        if len(body) < 5 or body[0] or len(body) - 5 != int.from_bytes(body[1:5], "big"):
            return Reply(stream, INTERNAL, b"", f"{len(body)} bytes came that are no single uncompressed message")
        return Reply(stream, 0, body[5:])

    def _settings(self, payload: bytes) -> None:
        if len(payload) % 6:
            raise ProtocolError(f"a SETTINGS frame of {len(payload)} bytes came")
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW:
                for call in self._streams.values():
                    call.window += value - self._stream_window
                self._stream_window = value
            elif name == _MAX_FRAME:
                self._max_frame = value
            elif name == _MAX_STREAMS:
                self._max_streams = value
            elif name == _HEADER_TABLE_SIZE and value < self._encoder.header_table_size:
                self._encoder.header_table_size = value
                self._block = b""
        self._frame(_SETTINGS, _ACK, 0, b"")
        self._flush()

    def _go_away(self, payload: bytes) -> list[Reply]:
        """The server will answer no stream above the one it names."""
        self.closing = True
        last = int.from_bytes(payload[:4], "big") & _LARGEST_WINDOW
        lost = [stream for stream in self._streams if stream > last]
        for stream in lost:
            del self._streams[stream]
        return [Reply(stream, UNAVAILABLE, b"", "the server is going away") for stream in lost]

    def _flush(self) -> None:
        """Send what waited for room in the windows, oldest call first."""
        while self._blocked:
            stream = self._blocked[0]
            call = self._streams.get(stream)
            if call is None or not call.unsent:
                self._blocked.popleft()
                continue
            room = min(self._window, call.window, self._max_frame)
            if room <= 0:
                if self._window > 0:  # this stream alone is held up: let the others pass
                    self._blocked.rotate(-1)
                    if all(self._stuck(waiting) for waiting in self._blocked):
                        return
                    continue
                return
            part, call.unsent = call.unsent[:room], call.unsent[room:]
            self._frame(_DATA, 0 if call.unsent else _END_STREAM, stream, part)
            self._window -= len(part)
            call.window -= len(part)

    def _stuck(self, stream: int) -> bool:
        call = self._streams.get(stream)
        return call is not None and bool(call.unsent) and call.window <= 0

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        self.output += struct.pack(">IBI", len(payload) << 8 | kind, flags, stream)
        self.output += payload


def _timeout(seconds: float) -> str:
    """A time limit as gRPC writes it: at most eight digits and a unit."""
    milliseconds = max(int(seconds * 1000), 1)
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(milliseconds // 1000, 10**8 - 1)}S"
