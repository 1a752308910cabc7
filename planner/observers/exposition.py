"""A gateway's metrics as the counters that demand is made of.

Comes in: the samples of its `/metrics`. Goes out: a reading, and how much it grew between two of them.
Invariant: a counter that went back (the process is another one) tells nothing. Not here: HTTP (`gateways`),
the text (`services.runtime.metrics_page`), what follows from growth (`counting`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planner.observers.counting import Buckets, Growth

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""

ACCEPTED = "baton_requests_accepted_total"
ENDED = "baton_prompt_length_tokens_count"
PROMPT_TOKENS = "baton_prompt_tokens_total"
CACHED_TOKENS = "baton_cached_tokens_total"
OUTPUT_TOKENS = "baton_output_tokens_total"
PROMPTS = "baton_prompt_length_tokens_bucket"
TTFT = "baton_ttft_seconds_bucket"
TPOT = "baton_tpot_seconds_bucket"
TTFT_ALONE = "baton_ttft_alone_seconds_bucket"
TPOT_ALONE = "baton_tpot_alone_seconds_bucket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters of one process at one moment."""

    at_s: float
    values: Mapping[str, float]
    """By name, summed over labels."""
    buckets: Mapping[str, Buckets]
    """Histograms by name."""


def read(samples: Iterable[Sample], at_s: float) -> Reading:
    """Read the samples of a page, those of all labels together."""
    values: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, labels, value in samples:
        if "le" in labels:
            histogram, edge = buckets.setdefault(name, {}), float(labels["le"])
            histogram[edge] = histogram.get(edge, 0.0) + value
        else:
            values[name] = values.get(name, 0.0) + value
    return Reading(at_s=at_s, values=values, buckets=buckets)


def grown(before: Reading, after: Reading) -> Growth | None:
    """Say how much counters grew; None where that cannot be told."""
    window_s = after.at_s - before.at_s
    names = (ACCEPTED, ENDED, PROMPT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS)
    if window_s <= 0.0 or any(name not in after.values for name in names):
        return None
    more = {name: after.values[name] - before.values.get(name, 0.0) for name in names}
    if any(value < 0.0 for value in more.values()):
        return None
    return Growth(
        window_s=window_s,
        accepted=more[ACCEPTED],
        ended=more[ENDED],
        prompt_tokens=more[PROMPT_TOKENS],
        cached_tokens=more[CACHED_TOKENS],
        output_tokens=more[OUTPUT_TOKENS],
        prompts=_bucket_growth(before, after, PROMPTS),
        ttft=_bucket_growth(before, after, TTFT),
        tpot=_bucket_growth(before, after, TPOT),
        ttft_alone=_bucket_growth(before, after, TTFT_ALONE),
        tpot_alone=_bucket_growth(before, after, TPOT_ALONE),
    )


def _bucket_growth(before: Reading, after: Reading, name: str) -> Buckets:
    old, new = before.buckets.get(name, {}), after.buckets.get(name, {})
    return {edge: max(0.0, count - old.get(edge, 0.0)) for edge, count in new.items()}
