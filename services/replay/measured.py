"""Requests that a live cluster served, as a trace with what came of them.

Comes in: records of a gateway, or a file of them. Goes out: JSON lines that `trace_files` reads like any
other trace, and what was measured, to show beside what is simulated. Invariant: a trace begins at 0, since
times of a gateway's clock mean nothing elsewhere. Not here: the records (`services.gateway.records`).
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec


class MeasuredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a request of Mooncake's format, and its outcome."""

    timestamp: float
    """Arrival, ms."""
    input_length: int
    output_length: int
    hash_ids: list[int] = []
    ttft_ms: float
    tpot_ms: float | None = None
    """None below two tokens."""


def write_measured(path: Path, requests: Sequence[MeasuredRequest]) -> int:
    """Write a trace in the order of arrival; returns how many requests it holds."""
    ordered = sorted(requests, key=lambda request: request.timestamp)
    begin_ms = ordered[0].timestamp if ordered else 0.0
    moved = (msgspec.structs.replace(one, timestamp=round(one.timestamp - begin_ms, 3)) for one in ordered)
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in moved))
    return len(ordered)


def read_measured(path: Path) -> tuple[MeasuredRequest, ...]:
    """Read what was measured; empty when the file is another trace."""
    decoder = msgspec.json.Decoder(MeasuredRequest)
    try:
        return tuple(decoder.decode(line) for line in path.read_bytes().splitlines() if line.strip())
    except msgspec.DecodeError:
        return ()


def remark(requests: Iterable[MeasuredRequest]) -> str | None:
    """Say in one line what a live cluster made of a trace; None when nothing was measured."""
    measured = list(requests)
    if not measured:
        return None
    ttfts_ms = sorted(request.ttft_ms for request in measured)
    tpots_ms = sorted(request.tpot_ms for request in measured if request.tpot_ms is not None)
    text = f"measured live: {len(measured)} requests, TTFT ms {_spread(ttfts_ms)}"
    return f"{text}, TPOT ms {_spread(tpots_ms)}" if tpots_ms else text


def _spread(ordered: Sequence[float]) -> str:
    """Say mean, p95 and p99 of sorted times, each the least that so large a share does not exceed."""
    mean = sum(ordered) / len(ordered)
    p95, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.95, 0.99))
    return f"mean {mean:,.1f}, p95 {p95:,.1f}, p99 {p99:,.1f}"
