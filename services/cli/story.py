"""A request's record in words: what was decided, why, what it cost, what happened when.

Comes in: the record as the gateway's JSON gives it. Goes out: lines of text. Pure.
"""

from collections.abc import Iterator

from services.cli.hindsight import look_back, ms
from services.cli.records import CandidateRecord, HandoffRecord, Record


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
    yield from look_back(record)


def _decision(record: Record) -> Iterator[str]:
    placement = record.placement
    if placement is None:
        return
    yield ""
    yield f"decision: {placement.reason}"
    if placement.margins is not None:
        yield (
            f"overload: predictions may use {placement.margins.ttft_frac:.0%} of the TTFT target and "
            f"{placement.margins.tpot_frac:.0%} of what the TPOT target leaves, by how often they missed"
        )
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


def _candidate(candidate: CandidateRecord) -> str:
    name = f"{candidate.path:6} {candidate.worker_id}"
    if candidate.excluded is not None and candidate.cost_s == 0:
        return f"{name}: out, {candidate.excluded}"
    text = (
        f"{name}: cost {ms(candidate.cost_s)} = TTFT {ms(candidate.ttft_s)} "
        f"(wait {ms(candidate.wait_s)}, prefill of {candidate.uncached_tokens} tokens "
        f"{ms(candidate.prefill_s)}, transfer {ms(candidate.transfer_s)}) + harm {ms(candidate.harm_s)}"
    )
    return text if candidate.excluded is None else f"{text}; out, {candidate.excluded}"


def _handed_over(handoff: HandoffRecord) -> str:
    ticket = handoff.ticket
    if ticket is None:
        return f"prefill: {handoff.worker_id}; the first token was the last, nothing to hand over"
    return (
        f"handoff: {handoff.worker_id} prefilled in {ms(handoff.prefill_s)} after "
        f"{ms(handoff.waited_s)} in the queue; {ticket.block_count} blocks of "
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
    figures = [f"TTFT {ms(ttft_s)}"] if ttft_s is not None else []
    figures += [f"TPOT {ms(tpot_s)}"] if tpot_s is not None else []
    if figures:
        yield "  " + ", ".join(figures)


def _bytes(count: int) -> str:
    return f"{count / 1024:.0f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MiB"
