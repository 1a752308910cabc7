"""Judges placements beside each other: what Baton wins or loses against one pool and against a fixed split.

Comes in: what each placement made of one load. Goes out: a verdict per load, and a table.
Invariant: pure; a placement that was not run is never a reference. Not here: replays (`bench_placement`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

LIMIT_FRAC = 0.03
"""How much worse than a reference Baton may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one placement made of one load.

    Attributes:
        policy: its name, `NAME:P` for a fixed split.
        ttft_mean_ms: of all requests.
        ttft_p95_ms: of all requests.
        itl_mean_ms: of all gaps of all requests.
        itl_p99_ms: of all gaps of all requests.
        goodput_count: requests with TTFT and mean gap within their targets.
        goodput_p99_count: requests with TTFT and the 99th percentile of their own gaps within them.
        hit_frac: prompt tokens found cached.
        requests: in the load.
    """

    policy: str
    ttft_mean_ms: float
    ttft_p95_ms: float
    itl_mean_ms: float
    itl_p99_ms: float
    goodput_count: int
    goodput_p99_count: int
    hit_frac: float
    requests: int

    @property
    def merit(self) -> tuple[int, float]:
        """Order placements: more requests whose every target is met, then the shorter TTFT."""
        return self.goodput_p99_count, -self.ttft_p95_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Baton beside the others at one load.

    Attributes:
        split: the best fixed split; None: none was run.
        better: the better of one pool and that split.
        ttft_p95_frac: how far Baton's is above that one's; below 0: shorter.
        itl_p99_frac: the same.
        ttft_p95_least_frac: how far it is above the least of both, whichever has it.
        itl_p99_least_frac: the same.
    """

    split: Outcome | None
    better: Outcome
    ttft_p95_frac: float
    itl_p99_frac: float
    ttft_p95_least_frac: float
    itl_p99_least_frac: float

    @property
    def holds(self) -> bool:
        """Baton is within the limit of the better one, on both."""
        return max(self.ttft_p95_frac, self.itl_p99_frac) <= LIMIT_FRAC

    @property
    def holds_everywhere(self) -> bool:
        """Baton has one pool's TTFT and the split's ITL at the same time, or whichever is less."""
        return max(self.ttft_p95_least_frac, self.itl_p99_least_frac) <= LIMIT_FRAC


def best_split(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Find the fixed split that meets most targets; None without any."""
    splits = [outcome for outcome in outcomes if ":" in outcome.policy]
    return max(splits, key=lambda outcome: outcome.merit) if splits else None


def judge(baton: Outcome, others: Sequence[Outcome]) -> Verdict:
    """Compare Baton with one pool and the best split.

    Args:
        baton: what it made of the load.
        others: what one pool and fixed splits made of it, >= 1.
    """
    split = best_split(others)
    references = [outcome for outcome in others if ":" not in outcome.policy]
    if split is not None:
        references.append(split)
    better = max(references, key=lambda outcome: outcome.merit)
    ttft_ms = min(outcome.ttft_p95_ms for outcome in references)
    itl_ms = min(outcome.itl_p99_ms for outcome in references)
    return Verdict(
        split=split,
        better=better,
        ttft_p95_frac=_above(baton.ttft_p95_ms, better.ttft_p95_ms),
        itl_p99_frac=_above(baton.itl_p99_ms, better.itl_p99_ms),
        ttft_p95_least_frac=_above(baton.ttft_p95_ms, ttft_ms),
        itl_p99_least_frac=_above(baton.itl_p99_ms, itl_ms),
    )


def _above(value: float, reference: float) -> float:
    return value / reference - 1 if reference else float(value > 0)


def heading() -> str:
    """Write the head of the table, as Markdown."""
    names = [
        "load",
        "baton: TTFT mean / p95, ms",
        "ITL mean / p99, ms",
        "good / p99 form",
        "one pool",
        "best split",
    ]
    names += ["beside the better one: TTFT p95, ITL p99", "beside the least of each"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def line(load: str, baton: Outcome, others: Sequence[Outcome]) -> str:
    """Write one row of the table."""
    verdict = judge(baton, others)
    pool = next((outcome for outcome in others if ":" not in outcome.policy), None)
    return (
        f"| {load} | {baton.ttft_mean_ms:,.0f} / {baton.ttft_p95_ms:,.0f}"
        f" | {baton.itl_mean_ms:.1f} / {baton.itl_p99_ms:.1f}"
        f" | {baton.goodput_count:,} / {baton.goodput_p99_count:,} of {baton.requests:,}"
        f" | {_brief(pool)} | {_brief(verdict.split)}"
        f" | {_word(verdict.holds)}: {verdict.ttft_p95_frac:+.1%}, {verdict.itl_p99_frac:+.1%}"
        f" ({verdict.better.policy})"
        f" | {_word(verdict.holds_everywhere)}: {verdict.ttft_p95_least_frac:+.1%},"
        f" {verdict.itl_p99_least_frac:+.1%} |"
    )


def _word(holds: bool) -> str:
    return "holds" if holds else "fails"


def _brief(outcome: Outcome | None) -> str:
    if outcome is None:
        return "–"
    name = f"{outcome.policy.rpartition(':')[2]}P: " if ":" in outcome.policy else ""
    return (
        f"{name}{outcome.ttft_mean_ms:,.0f} / {outcome.ttft_p95_ms:,.0f}, {outcome.itl_p99_ms:.1f},"
        f" {outcome.goodput_p99_count:,}"
    )
