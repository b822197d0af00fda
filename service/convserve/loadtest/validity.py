"""Whether a run measured the server, or the client."""

from __future__ import annotations

from collections.abc import Sequence

from convserve.loadtest.records import ClientStats
from convserve.loadtest.tally import Tally

_BUSIEST = 0.85
"""Share of its time that a client's thread may be busy: above, requests queue in the client."""
_LAG_SHARE, _LAG_FLOOR_SECONDS = 0.1, 0.0002
"""Requests may leave late by so much of the latency measured, or by so many seconds, at the 99th percentile."""
_STARVED = 0.1
"""Share of the time that a client may have waited for a core."""


def problems(tally: Tally, clients: Sequence[ClientStats], *, open_loop: bool) -> list[str]:
    """What makes a run invalid, in sentences; empty: the client was not the bottleneck."""
    found = []
    for number, client in enumerate(clients, 1):
        if client.seconds <= 0:
            continue
        busy = client.busy_seconds / client.seconds
        if busy > _BUSIEST:
            found.append(
                f"client process {number} of {len(clients)} was busy {busy:.0%} of the time (limit {_BUSIEST:.0%}): it"
                " may have been the bottleneck; use more --processes, or another machine"
            )
        starved = client.starved_seconds / client.seconds
        if starved > _STARVED:
            found.append(
                f"client process {number} of {len(clients)} waited for a core {starved:.0%} of the time (limit"
                f" {_STARVED:.0%}): other work took it; use a quiet machine, or pin server and client apart"
            )
    if open_loop and tally.latencies.count:
        lag, latency = tally.lags.percentile(0.99), tally.latencies.percentile(0.99)
        limit = max(_LAG_SHARE * latency, _LAG_FLOOR_SECONDS)
        if lag > limit:
            full = any(client.held_back for client in clients)
            why = "the client could not keep to its schedule"
            if full:
                why = "every connection had as many calls as the server allows; use more --connections"
            found.append(
                f"requests left up to {lag * 1e3:.2f} ms late (p99; limit {limit * 1e3:.2f} ms, a tenth of the p99"
                f" latency): {why}"
            )
    return found
