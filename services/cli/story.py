"""A request's record in words: what was decided, why, what it cost, what happened when.

Comes in: the record as the gateway's JSON gives it. Goes out: lines of text. Pure.
"""

from collections.abc import Iterator

import msgspec


class _Candidate(msgspec.Struct):
    path: str
    worker_id: str
    overlap_blocks: int
    uncached_tokens: int
    wait_s: float
    prefill_s: float
    transfer_s: float
    ttft_s: float
    harm_s: float
    cost_s: float
    excluded: str | None = None


class _Placement(msgspec.Struct):
    path: str
    worker_id: str
    overlap_blocks: int
    predicted_ttft_s: float
    reason: str
    candidates: list[_Candidate]
    predicted_tpot_s: float = 0.0


class _Ticket(msgspec.Struct):
    prefill_worker_id: str
    block_count: int
    block_size_tokens: int
    kv_bytes: int
    lease_s: float


class _Handoff(msgspec.Struct):
    worker_id: str
    waited_s: float
    prefill_s: float
    ticket: _Ticket | None = None


class _DecodePlacement(msgspec.Struct):
    worker_id: str
    reason: str


class _Timeline(msgspec.Struct):
    marks: list[tuple[str, float]]
    output_tokens: int


class Record(msgspec.Struct):
    """What `/baton/v1/requests/ID` answers, as far as the story needs it."""

    request_id: str
    model: str
    prompt_tokens: int
    output_tokens: int
    timeline: _Timeline
    first_token_early: bool
    fallbacks: list[str]
    cached_tokens: int | None = None
    placement: _Placement | None = None
    handoff: _Handoff | None = None
    decode_placement: _DecodePlacement | None = None
    finish: str | None = None
    error: tuple[str, str] | None = None

    def at_s(self, mark: str) -> float | None:
        """Seconds from accept to a moment."""
        return next((at for name, at in self.timeline.marks if name == mark), None)

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first."""
        first, last = self.at_s("first_token"), self.at_s("last_token")
        if first is None or last is None or self.output_tokens < 2:
            return None
        return (last - first) / (self.output_tokens - 1)


def tell(record: Record) -> Iterator[str]:
    """Tell a record line by line."""
    cached = "" if record.cached_tokens is None else f" ({record.cached_tokens} cached)"
    end = record.finish or "running"
    yield (
        f"request {record.request_id}, model {record.model}: {record.prompt_tokens} prompt tokens{cached}, "
        f"{record.output_tokens} output tokens, {end}"
    )
    if record.error is not None:
        yield f"error: {record.error[0]}: {record.error[1]}"
    yield from _decision(record)
    yield from _moments(record)


def _decision(record: Record) -> Iterator[str]:
    placement = record.placement
    if placement is None:
        return
    yield ""
    yield f"decision: {placement.reason}"
    for candidate in placement.candidates:
        yield "  " + _candidate(candidate)
    for fallback in record.fallbacks:
        yield f"  then left for local prefill, because {fallback}"
    handoff = record.handoff
    if handoff is not None:
        yield _handed_over(handoff)
    if record.decode_placement is not None:
        yield f"decode: {record.decode_placement.reason}"
    if record.first_token_early:
        yield "first token: sent by prefill, before decode began"
    ttft_s = record.at_s("first_token")
    if ttft_s is not None:
        off_s = ttft_s - placement.predicted_ttft_s
        yield (
            f"prediction: TTFT {_ms(placement.predicted_ttft_s)}, was {_ms(ttft_s)} "
            f"({'late' if off_s > 0 else 'early'} by {_ms(abs(off_s))})"
        )
    if record.tpot_s is not None and placement.predicted_tpot_s:
        yield f"prediction: TPOT {_ms(placement.predicted_tpot_s)}, was {_ms(record.tpot_s)}"


def _candidate(candidate: _Candidate) -> str:
    name = f"{candidate.path:6} {candidate.worker_id}"
    if candidate.excluded is not None and candidate.cost_s == 0:
        return f"{name}: out, {candidate.excluded}"
    text = (
        f"{name}: cost {_ms(candidate.cost_s)} = TTFT {_ms(candidate.ttft_s)} "
        f"(wait {_ms(candidate.wait_s)}, prefill of {candidate.uncached_tokens} tokens "
        f"{_ms(candidate.prefill_s)}, transfer {_ms(candidate.transfer_s)}) + harm {_ms(candidate.harm_s)}"
    )
    return text if candidate.excluded is None else f"{text}; out, {candidate.excluded}"


def _handed_over(handoff: _Handoff) -> str:
    ticket = handoff.ticket
    if ticket is None:
        return f"prefill: {handoff.worker_id}; the first token was the last, nothing to hand over"
    return (
        f"handoff: {handoff.worker_id} prefilled in {_ms(handoff.prefill_s)} after "
        f"{_ms(handoff.waited_s)} in the queue; {ticket.block_count} blocks of "
        f"{ticket.block_size_tokens} tokens, {_bytes(ticket.kv_bytes)} of KV"
    )


def _moments(record: Record) -> Iterator[str]:
    yield ""
    yield "timeline:"
    before_s = 0.0
    for name, at_s in record.timeline.marks:
        yield f"  {at_s * 1e3:9.1f} ms  +{(at_s - before_s) * 1e3:8.1f} ms  {name.replace('_', ' ')}"
        before_s = at_s
    ttft_s, tpot_s = record.at_s("first_token"), record.tpot_s
    figures = [f"TTFT {_ms(ttft_s)}"] if ttft_s is not None else []
    figures += [f"TPOT {_ms(tpot_s)}"] if tpot_s is not None else []
    if figures:
        yield "  " + ", ".join(figures)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _bytes(count: int) -> str:
    return f"{count / 1024:.0f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MiB"
