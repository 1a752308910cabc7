"""Looks back at a request: what was predicted when it was placed, what came, and where they parted.

Comes in: a record. Goes out: lines of text. Pure.
A prediction begins with the decision and ends with the first token. Its parts are compared with the moments
that bound them: remote, the queue ends with the claim and prefill with the handoff; local, wait, prefill and
first step are one span, because only the engine knows where one ends. A first token that prefill wrote and
that was shown early waits for no transfer; it is compared with the transfer that was predicted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from services.cli.records import CandidateRecord, PlacementRecord, Record

SMALL_S = 0.0005
"""Differences below it are not told: no clock on the way is finer."""
SMALL_FRAC = 0.05
"""Nor are those below this share of the whole difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a TTFT.

    Attributes:
        name: for a person.
        predicted_s: when it was placed.
        measured_s: between two moments.
    """

    name: str
    predicted_s: float
    measured_s: float

    @property
    def more_s(self) -> float:
        """How much longer than predicted; below 0: shorter."""
        return self.measured_s - self.predicted_s


def look_back(record: Record) -> Iterator[str]:
    """Compare prediction and truth line by line; says nothing of a request that was never placed."""
    placement = record.placement
    if placement is None:
        return
    yield ""
    yield "hindsight:"
    ttft_s = record.at_s("first_token")
    if ttft_s is None:
        yield f"  no first token; predicted was TTFT {ms(placement.predicted_ttft_s)}"
        return
    yield "  " + _whole("TTFT", placement.predicted_ttft_s, ttft_s) + _because(record, ttft_s)
    chosen = chosen_of(placement)
    if chosen is not None:
        for part in parts_of(record, chosen):
            yield f"    {part.name}: predicted {ms(part.predicted_s)}, took {ms(part.measured_s)}"
        yield from _reuse(record, chosen)
        yield from _choice(placement, chosen, ttft_s)
    tpot_s = record.tpot_s
    if tpot_s is not None and placement.predicted_tpot_s:
        yield "  " + _whole("TPOT", placement.predicted_tpot_s, tpot_s)


def chosen_of(placement: PlacementRecord) -> CandidateRecord | None:
    """Find the candidate that was chosen; None when the record does not hold it."""
    return next(
        (
            candidate
            for candidate in placement.candidates
            if (candidate.path, candidate.worker_id) == (placement.path, placement.worker_id)
        ),
        None,
    )


def parts_of(record: Record, chosen: CandidateRecord) -> tuple[Part, ...]:
    """Split predicted and measured TTFT alike; none where a way was left, since marks then repeat."""
    placed_s, first_s = record.at_s("placed"), record.at_s("first_token")
    if placed_s is None or first_s is None or record.fallbacks:
        return ()
    before = Part(name="before the decision", predicted_s=0.0, measured_s=placed_s)
    step_s = chosen.ttft_s - chosen.wait_s - chosen.prefill_s - chosen.transfer_s
    claimed_s, prefilled_s = record.at_s("claimed"), record.at_s("prefilled")
    if chosen.path == "local" or claimed_s is None or prefilled_s is None:
        name = "wait, prefill and first step" if chosen.path == "local" else "everything after it"
        return before, Part(name=name, predicted_s=chosen.ttft_s, measured_s=first_s - placed_s)
    ending = "early first token" if record.first_token_early else "transfer and first step"
    return (
        before,
        Part(name="queue", predicted_s=chosen.wait_s, measured_s=claimed_s - placed_s),
        Part(name="prefill", predicted_s=chosen.prefill_s, measured_s=prefilled_s - claimed_s),
        Part(name=ending, predicted_s=chosen.transfer_s + step_s, measured_s=first_s - prefilled_s),
    )


def ms(seconds: float) -> str:
    """Write a duration in milliseconds."""
    return f"{seconds * 1e3:.1f} ms"


def _whole(what: str, predicted_s: float, measured_s: float) -> str:
    more_s = measured_s - predicted_s
    if abs(more_s) < SMALL_S and abs(more_s) < SMALL_FRAC * predicted_s:
        return f"{what} was as predicted, {ms(measured_s)}"
    share = f", {more_s / predicted_s:+.0%}" if predicted_s > 0 else ""
    how = "longer" if more_s > 0 else "shorter"
    return (
        f"{what} was {ms(abs(more_s))} {how} than predicted "
        f"({ms(predicted_s)} predicted, {ms(measured_s)} measured{share})"
    )


def _because(record: Record, ttft_s: float) -> str:
    """Name what made the difference, the largest first."""
    placement = record.placement
    chosen = chosen_of(placement) if placement is not None else None
    if placement is None or chosen is None:
        return ""
    if record.fallbacks:
        return f": it took {len(record.fallbacks) + 1} ways, and the prediction is that of the last"
    whole_s = abs(ttft_s - placement.predicted_ttft_s)
    least_s = max(SMALL_S, SMALL_FRAC * whole_s)
    told = sorted(
        (part for part in parts_of(record, chosen) if abs(part.more_s) >= least_s),
        key=lambda part: -abs(part.more_s),
    )
    if not told or whole_s < SMALL_S:
        return ""
    words = (
        f"{part.name} took {ms(abs(part.more_s))} {'more' if part.more_s > 0 else 'less'}" for part in told
    )
    return ": " + ", ".join(words)


def _reuse(record: Record, chosen: CandidateRecord) -> Iterator[str]:
    """Say when another number of tokens was computed than predicted."""
    if record.cached_tokens is None or record.fallbacks:
        return
    computed = record.prompt_tokens - record.cached_tokens
    more = computed - chosen.uncached_tokens
    if more:
        yield (
            f"    {computed} tokens were computed, {abs(more)} {'more' if more > 0 else 'fewer'} "
            "than the index promised"
        )


def _choice(placement: PlacementRecord, chosen: CandidateRecord, ttft_s: float) -> Iterator[str]:
    """Set what came beside what the best other way was predicted to cost."""
    others = [c for c in placement.candidates if c is not chosen and c.excluded is None]
    if not others:
        return
    best = min(others, key=lambda candidate: candidate.cost_s)
    came_s = ttft_s + chosen.harm_s
    yield (
        f"  the next best way, {best.path} {best.worker_id}, was predicted to cost {ms(best.cost_s)}: "
        f"{ms(abs(best.cost_s - came_s))} {'more' if best.cost_s >= came_s else 'less'} than this one came to"
    )
