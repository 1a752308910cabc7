"""Baton's placement: late binding, soft roles, and no ratio that anybody sets."""

from dataclasses import replace

import pytest

from services.replay.policies.baton import baton
from services.replay.policies.options import PolicyOptions
from services.replay.policy import WorkerState
from services.replay.run import ReplaySettings, replay
from services.replay.workloads import make_workload
from tests.replay.choosing import StillFleet, job


def busy(state: WorkerState, until_s: float) -> WorkerState:
    """Make a worker that decodes one long sequence, in a step that ends then."""
    return WorkerState(
        decode_count=1,
        decode_context_tokens=200_000,
        waiting_count=0,
        pulling_count=0,
        prefill_count=0,
        prefill_pending_tokens=0,
        free_blocks=state.free_blocks,
        step_end_s=until_s,
    )


def test_nothing_is_bound_before_a_worker_can_begin_it() -> None:
    """With one idle worker, of three prompts one is handed out, and it is the shortest."""
    fleet = StillFleet(1)
    policy = baton(fleet, PolicyOptions())
    for number, tokens in enumerate((9_000, 700, 3_000)):
        assert policy.arrive(job(number, tail_tokens=tokens), 0.0) is None
    assert [(bound.index, way.prefill) for bound, way in policy.dispatch(0.0)] == [(1, 0)]
    assert policy.held_count == 2
    assert not policy.dispatch(0.0), "the worker is taken until its prompt is computed"


def test_what_can_no_longer_be_in_time_lets_others_go_first() -> None:
    """A prompt whose target has passed stands behind a longer one that can still just meet it."""
    fleet = StillFleet(1)
    policy = baton(fleet, PolicyOptions(ttft_slo_s=2.0))
    policy.arrive(job(0, tail_tokens=6_000, arrival_s=0.0), 0.0)
    policy.arrive(job(1, tail_tokens=8_000, arrival_s=1.3), 1.3)
    assert [bound.index for bound, _ in policy.dispatch(2.5)] == [1]


def test_a_prefix_is_fetched_where_that_is_quicker_than_waiting_for_its_holder() -> None:
    """A busy holder's blocks go to an idle worker; a few blocks are not worth a transfer's fixed cost."""
    fleet = StillFleet(2)
    names = list(range(1, 101))
    fleet.cached[0] = set(names)
    fleet.states[0] = busy(fleet.states[0], until_s=9.0)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, *names, tail_tokens=10), 0.0)
    ((_, way),) = policy.dispatch(0.0)
    assert (way.prefill, way.fetch_from, way.fetch_blocks) == (1, 0, 100)


def test_a_prompt_stays_with_its_prefix_when_its_holder_is_free() -> None:
    """No transfer where none is needed."""
    fleet = StillFleet(3)
    names = list(range(1, 101))
    fleet.cached[2] = set(names)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, *names, tail_tokens=10), 0.0)
    ((_, way),) = policy.dispatch(0.0)
    assert (way.prefill, way.fetch_from) == (2, None)


def test_a_worker_within_a_decode_step_takes_a_prompt_into_its_next_one() -> None:
    """It need not be between two steps: nobody else would be asked before all of its steps are over."""
    fleet = StillFleet(1)
    fleet.states[0] = busy(fleet.states[0], until_s=0.01)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, tail_tokens=500), 0.0)
    assert [way.prefill for _, way in policy.dispatch(0.0)] == [0]


def test_decode_workers_fill_up_one_after_another() -> None:
    """A sequence joins the fullest worker that the limit allows, not an empty one and not the emptiest."""
    fleet = StillFleet(4)
    for worker, tokens in ((0, 20_000), (1, 40_000), (2, 600_000)):
        fleet.states[worker] = replace(busy(fleet.states[worker], until_s=0.01), decode_context_tokens=tokens)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, tail_tokens=500), 0.0)
    ((bound, way),) = policy.dispatch(0.0)
    assert way.prefill == 3
    assert policy.decode_worker(bound, way.prefill, 0.0) == 1


@pytest.mark.parametrize(("blocks", "chosen"), [(800, 0), (1_250, 2)])
def test_while_enough_workers_decode_one_goes_a_little_beyond_the_limit(blocks: int, chosen: int) -> None:
    """The last worker is kept for prompts, unless steps would become much longer than they should."""
    fleet = StillFleet(3)
    for worker, held in ((0, 100_000), (1, 103_000)):
        fleet.states[worker] = replace(busy(fleet.states[worker], until_s=0.01), decode_context_tokens=held)
    fleet.cached[2] = set(range(1, blocks + 1))
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, *range(1, blocks + 1), tail_tokens=10), 0.0)
    ((bound, way),) = policy.dispatch(0.0)
    assert way.prefill == 2
    assert policy.decode_worker(bound, way.prefill, 0.0) == chosen


def test_no_fewer_workers_decode_than_have_the_memory() -> None:
    """A step of more KV than a worker has is none: its price, where the model bends, means nothing."""
    fleet = StillFleet(8)
    for worker, held in enumerate([400_000] * 5 + [100_000]):
        state = busy(fleet.states[worker], until_s=0.01)
        fleet.states[worker] = replace(state, decode_count=100, decode_context_tokens=held)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, tail_tokens=500), 0.0)
    ((bound, way),) = policy.dispatch(0.0)
    assert policy.decode_worker(bound, way.prefill, 0.0) == 5


def test_kv_goes_where_the_link_is_free() -> None:
    """A sequence does not join the fullest worker while a long prefix, computed elsewhere, moves there."""
    fleet = StillFleet(5)
    for worker, tokens in ((0, 20_000), (1, 40_000), (4, 600_000)):
        fleet.states[worker] = replace(busy(fleet.states[worker], until_s=0.01), decode_context_tokens=tokens)
    names = list(range(1, 601))
    fleet.cached[2] = set(names)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, *names, tail_tokens=10), 0.0)
    policy.arrive(job(1, tail_tokens=500), 0.0)
    ways = {bound.index: (bound, way) for bound, way in policy.dispatch(0.0)}
    assert {index: way.prefill for index, (_, way) in ways.items()} == {0: 2, 1: 3}
    assert [policy.decode_worker(bound, way.prefill, 0.0) for bound, way in ways.values()] == [1, 0]


def test_the_more_urgent_of_two_goes_first() -> None:
    """A longer prompt that is about to miss its target is not kept waiting by a shorter one."""
    fleet = StillFleet(1)
    policy = baton(fleet, PolicyOptions(ttft_slo_s=2.0))
    policy.arrive(job(0, tail_tokens=8_000, arrival_s=0.0), 0.0)
    policy.arrive(job(1, tail_tokens=6_000, arrival_s=1.6), 1.6)
    assert [bound.index for bound, _ in policy.dispatch(1.6)] == [0]


def test_one_configuration_serves_prompts_and_outputs() -> None:
    """Nothing told it the workload: tails stay in their targets with long prompts and with long outputs."""
    for name in ("no-reuse", "long-outputs"):
        trace = make_workload(name, seed=1, count=300)
        settings = ReplaySettings(policy="baton", workers=4, timing="dynamo-mocker")
        report, cluster = replay(trace, settings)
        assert report.completed_count == 300
        assert cluster.journeys.moves is not None
        assert cluster.journeys.moves.done_count > 0, "workers that few sequences hold are emptied"
        assert report.goodput_p99_count > 270
        assert len({record.prefill_worker for record in cluster.records}) == 4, (
            "every worker prefills at times"
        )
