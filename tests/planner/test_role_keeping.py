"""A worker that was turned to another role is not turned back by chance."""

import math
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.arranging.role_keeping import RoleKeeping
from planner.observation import Attainment, Backlog, Demand, Observation
from planner.planner import Planner
from planner.settings import KindSettings, PlannerSettings, TargetSettings
from services.domain.worker import Phase
from tests.planner.situations import obeyed, pools

LOOK_S = 1.0
START_S = 30.0
REQUESTS_PER_S = 13.0
HOLD_MAX_S = 600.0


def small(tpot_s: float) -> Planner:
    """A planner of three small engines that it may not have more of."""
    return Planner(
        PlannerSettings(
            targets=TargetSettings(ttft_s=0.5, tpot_s=tpot_s),
            look_s=LOOK_S,
            budget_factor_max=1.0,
            budget_memory_s=HOLD_MAX_S,
            kinds=(
                KindSettings(
                    performance="cpu-baton-tiny",
                    start_s=START_S,
                    sequences_max=128,
                    step_tokens_max=2_048,
                    workers_max=3,
                ),
            ),
        )
    )


def restless(seed: int, seconds: int) -> Iterator[tuple[float, Demand, Backlog, Attainment]]:
    """Requests around one rate whose every sight is mostly chance, on engines as slow as the target."""
    chance = Random(seed)
    for place in range(seconds):
        rate, waiting = max(3.0, chance.gauss(REQUESTS_PER_S, 3.0)), max(0, round(chance.gauss(3.0, 2.0)))
        demand = Demand(
            window_s=LOOK_S,
            requests_per_s=rate,
            prompt_tokens=1_250.0,
            uncached_tokens=18.0,
            uncached_square_tokens=400.0,
            output_tokens=chance.gauss(4.4, 0.3),
        )
        backlog = Backlog(
            waiting_count=waiting,
            waiting_tokens=waiting * chance.choice((0, 900, 1_250)),
            running_count=4,
            running_context_tokens=5_000,
        )
        attainment = Attainment(
            request_count=round(rate),
            ttft_frac=min(1.0, max(0.0, chance.gauss(0.75, 0.15))),
            tpot_frac=0.0,
            prefill_pace=7.9,
            decode_pace=max(5.0, chance.gauss(8.5, 0.5)),
        )
        yield place * LOOK_S, demand, backlog, attainment


def turns(planner: Planner, seed: int, seconds: int) -> list[tuple[float, Phase]]:
    """Turns of an hour, with the role that each leaves."""
    state, found = pools(1, 2), []
    for at_s, demand, backlog, attainment in restless(seed, seconds):
        decision = planner.decide(
            Observation(
                at_s=at_s, age_s=0.0, demand=demand, backlog=backlog, pools=state, attainment=attainment
            )
        )
        found += [(at_s, flip.source) for flip in decision.flips]
        state = obeyed(state, decision)
    return found


@pytest.mark.parametrize("tpot_s", [0.005, 0.03])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=2, deadline=None)
def test_noise_turns_no_worker_to_and_fro(tpot_s: float, seed: int) -> None:
    """With a target out of reach both ways are as bad: whoever turned stays until that has shown."""
    seconds = 300
    done = turns(small(tpot_s), seed, seconds)
    shown_s = 1.0 / (0.01 * 2.0 * REQUESTS_PER_S)  # the planner may expect up to twice the mean
    for (before_s, source), (after_s, other) in pairwise(done):
        assert source is other or after_s - before_s > shown_s
    assert len(done) <= 2 + math.log2(seconds / shown_s)


@given(gains=st.lists(st.floats(-1.0, 1.0), min_size=200, max_size=200), show_s=st.floats(1.0, 30.0))
@settings(max_examples=50, deadline=None)
def test_turns_back_grow_with_the_logarithm_of_time(gains: list[float], show_s: float) -> None:
    """Whatever is gained, a way back is kept shut for twice as long each time it was taken early."""
    roles, source, turned_s = RoleKeeping(HOLD_MAX_S), Phase.DECODE, [0.0]
    roles.note("default", source, 0.0, show_s=show_s)
    for place, gain in enumerate(gains, start=1):
        at_s = place * LOOK_S
        if roles.may_turn_back("default", at_s, gain, least=0.01):
            source = source.other
            roles.note("default", source, at_s, show_s=show_s)
            turned_s.append(at_s)
    kept_s = [after_s - before_s for before_s, after_s in pairwise(turned_s)]
    assert all(kept >= show_s for kept in kept_s)
    for before, after in pairwise(kept_s):
        assert after >= 2.0 * show_s or before >= 2.0 * show_s


def test_what_is_better_all_the_time_is_turned_back() -> None:
    """A load that has changed for good is followed as soon as the turn before has shown."""
    roles = RoleKeeping(HOLD_MAX_S)
    roles.note("default", Phase.DECODE, 0.0, show_s=10.0)
    assert roles.ways_back() == ((Phase.PREFILL, "default"),)
    allowed = [roles.may_turn_back("default", float(at_s), 0.3, least=0.01) for at_s in range(1, 12)]
    assert allowed == [at_s >= 10 for at_s in range(1, 12)]
    roles.note("default", Phase.PREFILL, 1_000.0, show_s=10.0)
    roles.note("default", Phase.DECODE, 2_000.0, show_s=10.0)
    assert not roles.may_turn_back("default", 2_009.0, 0.3, least=0.01)
    assert roles.may_turn_back("default", 2_010.0, 0.3, least=0.01)
