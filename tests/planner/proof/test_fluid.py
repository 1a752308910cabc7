"""The fluid cluster keeps count of its requests and its workers, and does what single requests do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.decision import Decision, Flip, PoolOrder
from planner.proof.fleet import Capacity, Fleet
from planner.proof.fluid import FluidCluster
from planner.proof.grading import grade
from planner.proof.simulation import run_scaler
from planner.proof.trace_loads import request_load
from planner.proof.trace_text import TracedRequests
from planner.proof.work import DEFAULT_ENGINE, Work
from services.domain.slo import Slo
from services.domain.worker import Phase
from services.replay.presets import DEFAULT_TIMING, timing_named
from services.replay.traces import PrefixNames, TracedRequest, ordered
from tests.planner.proof.even_loads import CHAT, QUICK, work_of
from tests.planner.proof.fixed_pools import served
from tests.planner.proof.scalers import Fixed

P, D = Phase.PREFILL, Phase.DECODE
FINISH_S = {P: 0.1, D: 20.0}
ERROR_FRAC = 0.03
"""Of all requests, by which the fluid may differ from the replay of each."""


@given(
    rates=st.lists(st.floats(0, 500), min_size=5, max_size=40),
    sizes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=5, max_size=40),
    spills=st.booleans(),
)
def test_requests_in_are_requests_out_or_there(
    rates: list[float], sizes: list[tuple[int, int]], spills: bool
) -> None:
    """Whatever the fleet does, each request waits, runs, was refused or has ended; shares stay shares."""
    work = work_of(rates, QUICK)
    cluster = FluidCluster(work=work, spills=spills)
    for place in range(work.load.steps):
        prefill, decode = sizes[place % len(sizes)]
        cluster.step(place, Capacity(prefill=prefill, decode=decode))
    there = cluster.queued + cluster.late + cluster.long + cluster.running + cluster.waiting_decode
    assert there + cluster.refused + cluster.finished == pytest.approx(work.load.arrivals.sum(), rel=1e-6)
    grades = grade(work, cluster.course, slice(0, work.load.steps))
    for share in (grades.ttft, grades.tpot):
        assert ((share >= 0) & (share <= 1 + 1e-9)).all()


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(20, 300), prefill=st.integers(1, 5), decode=st.integers(1, 5))
def test_more_workers_never_serve_fewer_in_time(rate: float, prefill: int, decode: int) -> None:
    """One more worker of each role does not lower the share in time, each keeping to its role.

    One more that prefills alone may: it lets in what decode cannot hold.
    """

    def attained(more_prefill: int, more_decode: int) -> float:
        fixed = Fixed(prefill + more_prefill, decode + more_decode)
        run = run_scaler(fixed, work_of([rate] * 40), startup_s=10.0, spills=False)
        return float(run.grades.met[20:].sum())

    assert attained(1, 1) >= attained(0, 0) - 1e-3 * rate
    assert attained(0, 1) >= attained(0, 0) - 1e-3 * rate


def test_a_worker_is_paid_from_its_creation_until_it_is_gone() -> None:
    """Start-up and drain cost; a start that is called off costs until then; a flip costs nothing more."""
    fleet = Fleet(startup_s=30.0)
    fleet.ready[P], fleet.ready[D] = 1, 2

    def order(prefill: int, decode: int, flips: tuple[Flip, ...] = ()) -> Decision:
        pools = ((P, prefill), (D, decode))
        orders = tuple(PoolOrder(phase=phase, kind="default", worker_count=count) for phase, count in pools)
        return Decision(orders=orders, flips=flips, look_s=10.0)

    fleet.obey(order(3, 2), 0.0, FINISH_S)
    assert (fleet.paid_count, fleet.capacity().prefill) == (5, 1)
    fleet.obey(order(2, 2), 10.0, FINISH_S)
    assert fleet.paid_count == 4
    fleet.advance(30.0)
    assert fleet.capacity().prefill == 2
    fleet.obey(order(2, 1), 30.0, FINISH_S)
    assert (fleet.paid_count, fleet.capacity().decode) == (4, 1.5)
    fleet.advance(50.0)
    assert (fleet.paid_count, fleet.capacity().decode) == (3, 1)
    fleet.obey(order(1, 2, (Flip(kind="default", source=P, worker_count=1),)), 50.0, FINISH_S)
    fleet.advance(50.2)
    assert (fleet.paid_count, fleet.capacity()) == (3, Capacity(prefill=1, decode=2))
    assert (fleet.flips_count, fleet.started_count, fleet.removed_count) == (1, 2, 2)


def made(rate: float, prompt: float, output: float, count: int, seed: int) -> TracedRequests:
    """Draw independent requests."""
    chance = np.random.default_rng(seed)
    sigma = np.sqrt(np.log(2.0))
    prompts = np.maximum(1.0, prompt * np.exp(sigma * chance.standard_normal(count) - sigma**2 / 2)).round()
    return TracedRequests(
        at_s=np.cumsum(chance.exponential(1 / rate, count)),
        prompt_tokens=prompts,
        uncached_tokens=prompts,
        output_tokens=np.maximum(2.0, chance.exponential(output, count)).round(),
    )


@pytest.mark.parametrize(
    ("requests", "pools", "slo"),
    [
        ((25, 3000, 300), (3, 3), QUICK),
        ((25, 3000, 300), (5, 3), QUICK),
        ((25, 3000, 300), (2, 2), CHAT),
        ((60, 1155, 211), (2, 2), QUICK),
        ((80, 1155, 211), (3, 3), QUICK),
    ],
)
def test_it_agrees_with_single_requests(
    requests: tuple[float, float, float], pools: tuple[int, int], slo: Slo
) -> None:
    """Fixed pools under an even load: the shares in time are those of the replay of every request."""
    (rate, prompt, output), (prefill, decode) = requests, pools
    trace = made(rate, prompt, output, 1500, 1)
    names = PrefixNames()
    replayed = [
        TracedRequest(
            arrival_s=float(at_s),
            prompt_tokens=int(tokens),
            output_tokens=int(written),
            prefix_ids=names.chain([], -(-int(tokens) // 512)),
        )
        for at_s, tokens, written in zip(trace.at_s, trace.prompt_tokens, trace.output_tokens, strict=True)
    ]
    truth = served(
        ordered("made", replayed), timing_named(DEFAULT_TIMING), prefill=prefill, decode=decode, slo=slo
    )
    work = Work(load=request_load("made", trace, speed=1.0, step_s=1.0), engine=DEFAULT_ENGINE, slo=slo)
    cluster = FluidCluster(work=work, spills=False)
    for place in range(work.load.steps):
        cluster.step(place, Capacity(prefill=prefill, decode=decode))
    grades = grade(work, cluster.course, slice(0, work.load.steps))
    arrivals = grades.arrivals.sum()
    assert (grades.ttft * grades.possible).sum() / arrivals == pytest.approx(truth.ttft, abs=ERROR_FRAC)
    assert (grades.tpot * grades.arrivals).sum() / arrivals == pytest.approx(truth.tpot, abs=ERROR_FRAC)
