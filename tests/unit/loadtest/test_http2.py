"""The client's half of HTTP/2, against frames written by hand."""

from __future__ import annotations

import struct

import hpack
import pytest

from convserve.loadtest.http2 import Connection, ProtocolError, Reply, frame_message

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def taken(connection: Connection) -> list[tuple[int, int, int, bytes]]:
    """What the connection wants to send, as frames; takes it away."""
    data = bytes(connection.output).removeprefix(PREFACE)
    connection.output.clear()
    return frames(data)


def is_ready(connection: Connection) -> bool:
    """A function, as a property that changes confuses type checkers."""
    return connection.ready


def block(*headers: tuple[str, str]) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(headers, huffman=False))


OK_HEADERS = block((":status", "200"), ("content-type", "application/grpc"))
OK_TRAILERS = block(("grpc-status", "0"))


def answer(stream: int, message: bytes) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, OK_HEADERS)
        + frame(DATA, 0, stream, frame_message(message))
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK_TRAILERS)
    )


@pytest.fixture
def connection() -> Connection:
    made = Connection("host:1", "/s/M", 2.5, [("authorization", "Bearer x")])
    assert made.output.startswith(PREFACE)
    made.output.clear()
    return made


def test_a_connection_opens_with_preface_and_settings() -> None:
    """No header table, no push, windows as large as they get."""
    opening = taken(Connection("h:1", "/s/M", 1))
    assert [kind for kind, *_ in opening] == [SETTINGS, WINDOW_UPDATE]
    assert dict(struct.iter_unpack(">HI", opening[0][3])) == {1: 0, 2: 0, 4: 2**31 - 1}


def test_a_call_is_headers_and_data(connection: Connection) -> None:
    """Headers as gRPC wants them; the second call's are short, and mean the same."""
    assert connection.send(frame_message(b"first")) == 1
    assert connection.send(frame_message(b"second")) == 3
    sent = taken(connection)
    assert [(kind, flags, stream) for kind, flags, stream, _ in sent] == [
        (HEADERS, END_HEADERS, 1),
        (DATA, END_STREAM, 1),
        (HEADERS, END_HEADERS, 3),
        (DATA, END_STREAM, 3),
    ]
    decoder = hpack.Decoder()
    first, second = decoder.decode(sent[0][3]), decoder.decode(sent[2][3])
    assert first == second
    assert {":path": "/s/M", "te": "trailers", "grpc-timeout": "2500m", "authorization": "Bearer x"}.items() <= dict(
        first
    ).items()
    assert len(sent[2][3]) < 20 < len(sent[0][3])
    assert sent[1][3] == b"\0\0\0\0\5first"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_answers_come_in_any_pieces(connection: Connection, size: int) -> None:
    """However the bytes are cut, and whichever call ends first."""
    for _ in range(3):
        connection.send(frame_message(b"q"))
    data = answer(5, b"five") + answer(1, b"") + answer(3, b"x" * 5000)
    replies = [reply for at in range(0, len(data), size) for reply in connection.receive(data[at : at + size])]
    assert replies == [Reply(5, 0, b"five"), Reply(1, 0, b""), Reply(3, 0, b"x" * 5000)]
    assert connection.in_flight == 0


def test_a_refusal_has_status_and_text(connection: Connection) -> None:
    """Trailers alone, with a percent-encoded message."""
    connection.send(frame_message(b"q"))
    trailers = block((":status", "200"), ("grpc-status", "8"), ("grpc-message", "queue%20is full: 3%25"))
    (reply,) = connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, trailers))
    assert (reply.code, reply.detail) == (8, "queue is full: 3%")


def test_a_server_may_fail_to_say_that_it_uses_no_header_table(connection: Connection) -> None:
    """GRPC's does when it refuses the first call before anybody has seen it: RFC 7541 4.2 wants a word on the size."""
    stream = connection.send(frame_message(b"x"))
    fields = [(b":status", b"200"), (b"grpc-status", b"1"), (b"grpc-message", b"CANCELLED")]
    literals = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    came = connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, stream, literals))
    assert came == [Reply(stream, 1, b"", "CANCELLED")]
    assert connection.receive(answer(connection.send(frame_message(b"y")), b"yes"))[0].message == b"yes"


def test_padding_priority_and_continuation_are_understood(connection: Connection) -> None:
    """Rare, and allowed."""
    connection.send(frame_message(b"q"))
    body = frame_message(b"padded")
    data = frame(HEADERS, PADDED | 0x20, 1, b"\2" + b"\0" * 5 + OK_HEADERS[:3] + b"\0\0")
    data += frame(CONTINUATION, END_HEADERS, 1, OK_HEADERS[3:])
    data += frame(DATA, PADDED, 1, b"\4" + body + b"\0" * 4)
    data += frame(HEADERS, END_HEADERS | END_STREAM, 1, OK_TRAILERS)
    assert connection.receive(data) == [Reply(1, 0, b"padded")]


def test_a_large_message_waits_for_the_windows(connection: Connection) -> None:
    """65,535 bytes go at once, in frames of at most 16,384; the rest when the server makes room, and not before."""
    message = frame_message(bytes(100_000))
    connection.send(message)
    first = [payload for kind, _, _, payload in taken(connection) if kind == DATA]
    assert sum(map(len, first)) == 65_535
    assert max(map(len, first)) <= 16_384
    connection.receive(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1_000_000)))
    assert taken(connection) == []
    connection.receive(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1_000_000)))
    rest = taken(connection)
    assert sum(len(payload) for *_, payload in rest) == len(message) - 65_535
    assert [flags for _, flags, _, _ in rest][-1] == END_STREAM
    assert not any(flags for _, flags, _, _ in rest[:-1])


def test_a_held_up_call_does_not_hold_up_others(connection: Connection) -> None:
    """One stream without window, another with: the second goes on as soon as the connection has room."""
    connection.receive(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 10)))
    connection.receive(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1_000_000)))
    connection.send(frame_message(bytes(50)))
    connection.send(frame_message(bytes(50)))
    taken(connection)
    connection.receive(frame(WINDOW_UPDATE, 0, 3, struct.pack(">I", 100)))
    assert [(kind, flags, stream, len(payload)) for kind, flags, stream, payload in taken(connection)] == [
        (DATA, END_STREAM, 3, 45)
    ]


def test_settings_and_pings_are_answered(connection: Connection) -> None:
    """Acknowledged; and as many calls as the server allows, no more."""
    connection.receive(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 2)) + frame(PING, 0, 0, b"12345678"))
    assert taken(connection) == [(SETTINGS, 1, 0, b""), (PING, 1, 0, b"12345678")]
    connection.send(frame_message(b"a"))
    assert is_ready(connection)
    connection.send(frame_message(b"b"))
    assert not is_ready(connection)
    connection.receive(answer(1, b""))
    assert is_ready(connection)


def test_a_smaller_header_table_is_respected(connection: Connection) -> None:
    """A server without room for a table gets headers that need none."""
    connection.receive(frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 0)))
    taken(connection)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    for _ in range(2):
        connection.send(frame_message(b"a"))
    for kind, _, _, payload in taken(connection):
        if kind == HEADERS:
            assert "/s/M" in [str(value) for _, value in decoder.decode(payload)]


@pytest.mark.parametrize("size", [100, 1024, 4095])
@pytest.mark.parametrize("sent_before", [0, 1, 3])
def test_a_header_table_that_shrinks_holds_what_was_sent(connection: Connection, size: int, sent_before: int) -> None:
    """Whenever the settings come: nothing refers to headers that the server never got."""
    decoder = hpack.Decoder()
    for _ in range(sent_before):
        connection.send(frame_message(b"a"))
    sent = taken(connection)
    connection.receive(frame(SETTINGS, 0, 0, struct.pack(">HI", 1, size)))
    for _ in range(3):
        connection.send(frame_message(b"a"))
    sent += taken(connection)
    found = [decoder.decode(payload) for kind, _, _, payload in sent if kind == HEADERS]
    assert len(found) == sent_before + 3
    assert all(headers == found[0] for headers in found)
    assert "/s/M" in [str(value) for _, value in found[0]]


@pytest.mark.parametrize("status", ["17", "300", "-1", "x", ""])
def test_a_status_that_grpc_does_not_know_is_unknown(connection: Connection, status: str) -> None:
    """As gRPC's clients take it; its text stays."""
    connection.send(frame_message(b"q"))
    trailers = block((":status", "200"), ("grpc-status", status), ("grpc-message", "odd"))
    assert connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, trailers)) == [Reply(1, 2, b"", "odd")]


def test_a_server_that_goes_away_finishes_what_it_took(connection: Connection) -> None:
    """Calls up to the last stream it names go on; later ones have failed, and no new ones may come."""
    for _ in range(3):
        connection.send(frame_message(b"q"))
    lost = connection.receive(frame(GOAWAY, 0, 0, struct.pack(">II", 3, 0)))
    assert [(reply.stream, reply.code) for reply in lost] == [(5, 14)]
    assert not connection.ready
    assert [reply.stream for reply in connection.receive(answer(1, b"") + answer(3, b""))] == [1, 3]


def test_a_reset_stream_has_failed(connection: Connection) -> None:
    """REFUSED_STREAM is UNAVAILABLE, as gRPC maps it."""
    connection.send(frame_message(b"q"))
    (reply,) = connection.receive(frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))
    assert reply.code == 14


def test_what_was_given_up_stays_silent(connection: Connection) -> None:
    """A cancelled call is reset; a late answer to it is no reply."""
    connection.send(frame_message(b"q"))
    taken(connection)
    connection.cancel(1)
    assert taken(connection) == [(RST_STREAM, 0, 1, struct.pack(">I", 8))]
    assert connection.receive(answer(1, b"late")) == []


def test_a_lost_connection_fails_what_is_open(connection: Connection) -> None:
    """All as UNAVAILABLE, once."""
    connection.send(frame_message(b"q"))
    assert [(reply.code, reply.detail) for reply in connection.fail("gone")] == [(14, "gone")]
    assert connection.fail("gone") == []


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\1\0\0\0\1x", b"\0\0\0\0\5four"])
def test_half_a_message_is_an_error(connection: Connection, body: bytes) -> None:
    """Nothing, too little, compressed, shorter than it says: status 0 does not make it an answer."""
    connection.send(frame_message(b"q"))
    data = frame(HEADERS, END_HEADERS, 1, OK_HEADERS) + frame(DATA, 0, 1, body)
    (reply,) = connection.receive(data + frame(HEADERS, END_HEADERS | END_STREAM, 1, OK_TRAILERS))
    assert reply.code == 13


def test_an_http_error_is_an_error(connection: Connection) -> None:
    """A proxy's 503 without a gRPC status is UNAVAILABLE."""
    connection.send(frame_message(b"q"))
    (reply,) = connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, block((":status", "503"))))
    assert (reply.code, reply.detail) == (14, "HTTP status 503 without a gRPC status")


def test_what_is_no_http2_is_refused(connection: Connection) -> None:
    """A header block that cannot be decoded, a continuation of nothing."""
    with pytest.raises(ProtocolError, match="decoded"):
        connection.receive(frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"))
    with pytest.raises(ProtocolError, match="SETTINGS frame of 5 bytes"):
        Connection("h:1", "/s/M", 1).receive(frame(SETTINGS, 0, 0, b"12345"))
    with pytest.raises(ProtocolError, match="CONTINUATION"):
        Connection("h:1", "/s/M", 1).receive(frame(CONTINUATION, END_HEADERS, 1, b""))


def test_the_servers_window_is_given_back(connection: Connection) -> None:
    """After a gigabyte of replies the server still may send."""
    connection.send(frame_message(b"q"))
    taken(connection)
    for _ in range(1025):
        connection.receive(frame(DATA, 0, 1, bytes(2**20)))
    updates = [payload for kind, _, _, payload in taken(connection) if kind == WINDOW_UPDATE]
    assert [int.from_bytes(payload, "big") for payload in updates] == [2**30]
