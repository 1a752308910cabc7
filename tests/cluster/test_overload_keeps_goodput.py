"""Three times as much is asked as can be done: what is let in is served in time, the rest is told so.

A small version of `tests.bench.bench_overload`; times are virtual, so its counts are the same everywhere.
"""

from dataclasses import replace
from functools import cache

import msgspec
import pytest

from services.engine.simulated.settings import SimulatedSettings
from services.router.settings import RouterSettings
from tests.bench.overload import Fleet, Load, Outcome, percentile, play

FLEET = Fleet(
    prefill=1,
    decode=1,
    engine=SimulatedSettings(eos_every_tokens=20),
    router=RouterSettings(burst_s=0.5),
)
LOAD = Load(rate_per_s=40.0, seconds=4.0, warm_up_s=2.0, deadline_s=4.0, output_tokens_max=60)
"""About as much as this fleet can do (48 answers a second when nobody minds the time)."""

TOLD = {"ok", "saturated", "deadline_unmeetable"}


@cache
def outcome_of(
    factor: float,
    *,
    early_rejection: bool = True,
    batch_frac: float = 0.0,
    scatter: float = 0.0,
    miss_frac: float = FLEET.router.miss_frac,
    seed: int = LOAD.seed,
) -> Outcome:
    """Play a multiple of the load."""
    router = msgspec.structs.replace(FLEET.router, early_rejection=early_rejection, miss_frac=miss_frac)
    load = replace(LOAD, rate_per_s=factor * LOAD.rate_per_s, batch_frac=batch_frac, seed=seed)
    return play(load, replace(FLEET, router=router, scatter=scatter))


def test_goodput_does_not_collapse() -> None:
    """At three times the load as many answers are good as at once the load; else hardly any is."""
    kept, lost = outcome_of(3), outcome_of(3, early_rejection=False)
    assert kept.goodput_per_s() >= 0.9 * outcome_of(1).goodput_per_s()
    assert lost.goodput_per_s() < 0.5 * kept.goodput_per_s()


@pytest.mark.parametrize(("scatter", "gain", "seeds"), [(0.0, 0.9, 1), (0.6, 1.05, 6)])
def test_learned_margins_keep_more_answers_in_time(scatter: float, gain: float, seeds: int) -> None:
    """Where engines are now slower, now faster than predicted; elsewhere they cost next to nothing.

    What chance makes of four seconds is more than the gain, so several of them are taken together.
    """
    learned, trusting = (
        sum(
            outcome_of(3, scatter=scatter, miss_frac=frac, seed=seed).goodput_per_s()
            for seed in range(1, seeds + 1)
        )
        for frac in (0.1, 1.0)
    )
    assert learned > gain * trusting


def test_what_is_not_served_is_told_at_once() -> None:
    """Every call ends in a whole answer or a clear refusal; none is begun for nothing or given up late."""
    outcome = outcome_of(3)
    assert set(outcome.ended) <= TOLD
    assert sum(outcome.ended.values()) == sum(outcome.offered.values())
    assert outcome.wasted_tokens == 0
    assert percentile(outcome.refusals_s, 0.99) <= FLEET.router.ttft_target_s
    assert outcome.leftovers == {}


def test_the_queue_stays_short() -> None:
    """What waits is what the targets allow, not what comes."""
    served_per_s = outcome_of(3).in_time_per_s()
    assert percentile(outcome_of(3).queues, 0.99) <= 2 * FLEET.router.ttft_target_s * served_per_s


def test_interactive_work_goes_before_batch_work() -> None:
    """Under overload the batch part is refused first, and the interactive part is served as if alone."""
    mixed = outcome_of(3, batch_frac=0.5)
    share = {name: mixed.in_time[name] / mixed.offered[name] for name in ("interactive", "batch")}
    assert share["interactive"] > 2 * share["batch"]
    assert set(mixed.ended) <= TOLD
