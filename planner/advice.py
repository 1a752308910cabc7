"""Advice in plain words, beside a decision: what no number of workers mends.

Comes in: demand, measured attainment, the size of the fleet and of its work. Goes out: sentences.
Invariant: advice changes no decision. Not here: decisions (`planner`).
"""

from dataclasses import replace

from planner.observation import Attainment, Demand
from services.domain.slo import Slo

BUSY_LEAST_FRAC = 0.4
"""Below this utilisation hosted models, paid by the request, are usually cheaper than GPUs of one's own."""
CACHED_LEAST_FRAC = 0.5
"""Below this share of cached prompt tokens it pays to look at how prompts are put together: well-built ones
reach 70 to 95 %."""
MOST_FRAC = 0.5
"""With more than so many requests in time the mean is fine and the tail is not."""
REQUESTS_LEAST = 100
"""Shares of fewer requests say nothing."""


class Lately:
    """Shares of the last requests, over as many looks as it takes to have enough of them."""

    def __init__(self) -> None:
        """Begin without any request."""
        self._known = Attainment()

    def fold(self, seen: Attainment) -> Attainment:
        """Take what a look saw; returns it with what came before, as far as it takes to tell anything."""
        kept = min(self._known.request_count, REQUESTS_LEAST)
        count = kept + seen.request_count

        def both(old_frac: float, new_frac: float) -> float:
            return (kept * old_frac + seen.request_count * new_frac) / count if count > 0 else new_frac

        known = self._known
        self._known = replace(
            seen,
            request_count=count,
            ttft_frac=both(known.ttft_frac, seen.ttft_frac),
            tpot_frac=both(known.tpot_frac, seen.tpot_frac),
            ttft_possible_frac=both(known.ttft_possible_frac, seen.ttft_possible_frac),
            tpot_possible_frac=both(known.tpot_possible_frac, seen.tpot_possible_frac),
        )
        return self._known


def advise(
    *,
    demand: Demand,
    attainment: Attainment,
    slo: Slo,
    attainment_frac: float,
    work_workers: float,
    workers: int,
) -> tuple[str, ...]:
    """Say what is worth a look.

    Args:
        demand: of the last window.
        attainment: of the last requests.
        slo: the targets.
        attainment_frac: share of requests that is to meet both targets.
        work_workers: workers that the load would keep busy at their best pace.
        workers: that are there.
    """
    said = []
    if workers > 0 and work_workers / workers < BUSY_LEAST_FRAC:
        said.append(
            f"the load is {work_workers / workers:.0%} of what the workers could carry: at that it is "
            "usually cheaper to pay by the request"
        )
    cached = 1.0 - demand.uncached_tokens / demand.prompt_tokens if demand.prompt_tokens > 0.0 else 1.0
    if demand.requests_per_s > 0.0 and cached < CACHED_LEAST_FRAC:
        said.append(
            f"{cached:.0%} of the prompt tokens were cached: look at the prompts' structure, what they share "
            "belongs at their beginning"
        )
    is_known = attainment.request_count >= REQUESTS_LEAST
    if is_known and MOST_FRAC < attainment.ttft_frac < attainment_frac:
        said.append(
            f"{1.0 - attainment.ttft_frac:.1%} of the first tokens were late while most are fast: that asks "
            "for replicas, not for larger batches"
        )
    if is_known and attainment.ttft_possible_frac < attainment_frac:
        said.append(
            f"{1.0 - attainment.ttft_possible_frac:.1%} of the prompts take longer than {slo.ttft_s:g} s on "
            "an idle worker, so no number of workers meets the TTFT target: raise it, shorten or cache these "
            "prompts, or take quicker workers; the plan is made for the others"
        )
    if is_known and attainment.tpot_possible_frac < attainment_frac:
        said.append(
            f"{1.0 - attainment.tpot_possible_frac:.1%} of the outputs take longer than {slo.tpot_s * 1e3:g} "
            "ms a token on an idle worker, so no number of workers meets the TPOT target: raise it or take "
            "quicker workers; the plan is made for the others"
        )
    return tuple(said)
