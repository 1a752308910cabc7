"""Nothing is asked for, or nobody is there: who is woken, who rests.

Comes in: an observation, settings, what is still kept. Goes out: what is wanted, and why, in words.
Invariant: pools go to zero only where settings say that they may. Not here: a load that has to be carried
(`planner`), for how long a worker is kept (`stabilising`).
"""

from planner.arranging.arranger import Wanted
from planner.observation import Backlog, Demand, Observation
from planner.settings import PlannerSettings
from planner.sizing.needs import NOTHING, Needs

FEWEST = Needs(prefill=1, decode=1)
"""Workers that serve anything at all."""
QUIET_COUNT = 0.5
"""Fewer requests expected within the time of a start are none."""


def is_called(observation: Observation) -> bool:
    """Whether prompts wait and there is nobody, so that no counter of requests will ever move."""
    return observation.backlog.waiting_count > 0 and not any(p.ordered_count for p in observation.pools)


def is_quiet(demand: Demand, backlog: Backlog, *, soon_count: float) -> bool:
    """Whether there is no request, and hardly one expected: `soon_count` within the time of a start."""
    if demand.requests_per_s > 0.0 or backlog.waiting_count > 0 or backlog.running_count > 0:
        return False
    return soon_count < QUIET_COUNT


def waking(backlog: Backlog) -> tuple[Wanted, str]:
    """Want the first workers of both roles."""
    said = f"{backlog.waiting_count} prompts wait and no worker is there: the first start"
    kept = (FEWEST.total, FEWEST.prefill, FEWEST.decode)
    return _unloaded(FEWEST, kept=kept, may_stop=False), said


def resting(
    settings: PlannerSettings, *, kept: tuple[int, int, int], start_s: float, may_stop: bool
) -> tuple[Wanted, str]:
    """Want what limits leave when nothing is asked for.

    Args:
        settings: with the limits.
        kept: workers of both roles, prefill and decode that are kept, since lately needed.
        start_s: for as long they are.
        may_stop: whether anything may be given back.
    """
    least = settings.limits
    if not settings.may_sleep:
        prefill, decode = least.prefill.workers_min, least.decode.workers_min
        said = f"nothing is asked for: {prefill} prefill and {decode} decode workers stay"
    elif kept[0] > 0:
        said = f"nothing is asked for: workers are kept as long as a start takes, {start_s:.0f} s"
    else:
        said = "nothing is asked for: the last workers go; prompts wait in the queue and wake them"
    return _unloaded(NOTHING, kept=kept, may_stop=may_stop), said


def _unloaded(needs: Needs, *, kept: tuple[int, int, int], may_stop: bool) -> Wanted:
    return Wanted(
        now=needs,
        later=needs,
        kept=kept,
        late_of=_never_late,
        late_later_of=_never_late,
        allowed_late_frac=1.0,
        may_stop=may_stop,
    )


def _never_late(_prefill: float, _decode: float) -> float:
    """Share of late requests where there is none."""
    return 0.0
