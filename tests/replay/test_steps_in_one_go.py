"""Taking many steps at once changes nothing: walked one by one, every token comes at the same moment."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replay.cluster import Cluster
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.policy import Fleet, Mechanisms, Policy
from services.replay.traces import Trace
from services.replay.worker import RUN_STEPS_MAX
from tests.replay.scenery import LateBound, Restless, engine, mechanisms, token_times_s, trace_of, traces


def replayed(
    trace: Trace,
    policy: Callable[[Fleet], Policy],
    *,
    run_steps_max: int,
    kv_blocks: int = 64,
    workers: int = 3,
) -> Cluster:
    """Replay a trace on small workers."""
    cluster = Cluster(
        trace,
        engine(kv_blocks=kv_blocks),
        worker_count=workers,
        policy=policy,
        itl_slo_s=0.02,
        run_steps_max=run_steps_max,
    )
    cluster.run()
    return cluster


def assert_same(walked: Cluster, run: Cluster) -> None:
    """Compare everything that is measured, to the last bit."""
    assert token_times_s(run) == token_times_s(walked)
    assert run.records == walked.records
    assert run.journeys.queue_times_s == walked.journeys.queue_times_s
    for one, other in zip(run.workers, walked.workers, strict=True):
        assert one.step_ends_s == other.step_ends_s
        assert one.prefill_busy_s == other.prefill_busy_s
        assert one.busy_s == pytest.approx(other.busy_s)
        assert one.cache.cached_blocks == other.cache.cached_blocks
        assert one.batch.preempted_count == other.batch.preempted_count


@settings(max_examples=60, deadline=None)
@given(
    trace=traces(),
    name=st.sampled_from(sorted(POLICIES)),
    options=st.builds(PolicyOptions, prefill_workers=st.sampled_from([None, 1, 2]), mechanisms=mechanisms),
    kv_blocks=st.integers(80, 140),
    steps=st.sampled_from([2, 5, RUN_STEPS_MAX]),
)
def test_for_every_policy(
    trace: Trace, name: str, options: PolicyOptions, kv_blocks: int, steps: int
) -> None:
    """Aggregated and split, whatever is handed over how, and jobs whose price falls while they are kept."""
    walked, run = (
        replayed(trace, lambda fleet: POLICIES[name](fleet, options), run_steps_max=most, kv_blocks=kv_blocks)
        for most in (1, steps)
    )
    assert_same(walked, run)


@settings(max_examples=60, deadline=None)
@given(
    trace=traces(),
    policy=st.sampled_from([LateBound, Restless]),
    ways=mechanisms,
    steps=st.sampled_from([2, 5, RUN_STEPS_MAX]),
)
def test_for_a_policy_that_keeps_jobs_and_looks_at_everything(
    trace: Trace, policy: type[LateBound], ways: Mechanisms, steps: int
) -> None:
    """States and overlaps seen in the middle of a run are those of walking, and so are all decisions."""
    walked, run = (
        replayed(trace, lambda fleet: policy(fleet, ways), run_steps_max=most, kv_blocks=400)
        for most in (1, steps)
    )
    assert_same(walked, run)


@settings(max_examples=60, deadline=None)
@given(
    trace=traces(requests_max=10), kv_blocks=st.integers(26, 40), steps=st.sampled_from([3, RUN_STEPS_MAX])
)
def test_when_blocks_run_out(trace: Trace, kv_blocks: int, steps: int) -> None:
    """Sequences lose their blocks in the same step and come back in the same step."""
    walked, run = (
        replayed(
            trace,
            lambda fleet: POLICIES["round-robin"](fleet, PolicyOptions()),
            run_steps_max=most,
            kv_blocks=kv_blocks,
            workers=1,
        )
        for most in (1, steps)
    )
    assert_same(walked, run)


def test_blocks_do_run_out() -> None:
    """The case above happens: four growing sequences in too few blocks."""
    trace = trace_of(*((0.0, 20, 30, ()) for _ in range(4)))
    options = PolicyOptions()
    cluster = replayed(
        trace,
        lambda fleet: POLICIES["round-robin"](fleet, options),
        run_steps_max=RUN_STEPS_MAX,
        kv_blocks=26,
        workers=1,
    )
    assert cluster.workers[0].batch.preempted_count > 0


def test_runs_are_taken_in_one_go() -> None:
    """A lone long output needs an event per run, not per token."""
    trace = trace_of((0.0, 8, 200, ()))
    cluster = Cluster(
        trace,
        engine(),
        worker_count=1,
        policy=lambda fleet: POLICIES["round-robin"](fleet, PolicyOptions()),
        itl_slo_s=0.02,
    )
    events = 0

    def count(_cluster: Cluster) -> None:
        nonlocal events
        events += 1

    cluster.run(count, every=0)
    assert len(cluster.workers[0].step_ends_s) == 200
    assert events < 20
