"""Mooncake's Conductor does what its paper says it does."""

from dataclasses import replace

import pytest

from services.replay.cluster import Cluster
from services.replay.measures import measure
from services.replay.policies.mooncake import LATE_FIRST_TOKEN, SLOW_TOKENS, Conductor, mooncake
from services.replay.policies.options import PolicyOptions
from services.replay.policy import Refusal, Way
from services.replay.sequence import Job
from tests.replay.choosing import StillFleet, job
from tests.replay.scenery import PEERS_ENGINE, trace_of

SPLIT = PolicyOptions(prefill_workers=2)


def placed(policy: Conductor, asked: Job, now_s: float = 0.0) -> Way:
    """Let a job in that must be let in."""
    way = policy.arrive(asked, now_s)
    assert isinstance(way, Way)
    return way


def test_a_prompt_goes_where_its_prefix_is_unless_the_queue_there_is_longer() -> None:
    """What is saved is weighed against what is waited for, in seconds."""
    fleet = StillFleet(4)
    names = tuple(range(64))
    fleet.cached[1] = set(names[:48])
    fleet.cached[0] = set(names[:30])  # 48 is less than twice 30: nothing is fetched
    policy = mooncake(fleet, SPLIT)
    way = placed(policy, job(0, *names))
    assert (way.prefill, way.fetch_from) == (1, None)
    for index in range(1, 6):
        policy.arrive(job(index, *names), 0.0)
    waits = {worker: queue.wait_s(0.0) for worker, queue in policy._queues.items()}
    assert waits[0] > 0
    assert abs(waits[0] - waits[1]) < waits[1]


def test_a_hot_prefix_is_fetched_where_the_own_one_is_too_short() -> None:
    """From twice as long on; the source is who holds the longest."""
    fleet = StillFleet(4)
    names = tuple(range(64))
    fleet.cached[1] = set(names)
    policy = mooncake(fleet, SPLIT)
    for index in range(40):
        way = placed(policy, job(index, *names))
        if way.prefill == 0:
            break
    assert (way.prefill, way.fetch_from, way.fetch_blocks) == (0, 1, 64)
    fleet.cached[0] = set(names[:33])
    for index in range(100, 140):
        way = placed(policy, job(index, *names))
        if way.prefill == 0:
            break
    assert (way.prefill, way.fetch_from) == (0, None)


def test_decoding_goes_where_tokens_are_predicted_to_come_quickest() -> None:
    """Those on their way there count like those that are there."""
    fleet = StillFleet(4)
    fleet.states[2] = replace(fleet.states[2], decode_count=3, decode_context_tokens=30_000)
    policy = mooncake(fleet, SPLIT)
    ways = [placed(policy, job(index, *range(100 * index, 100 * index + 5))) for index in range(3)]
    assert {way.decode for way in ways} == {3}
    fleet.states[3] = replace(fleet.states[3], decode_count=200, decode_context_tokens=900_000)
    assert placed(policy, job(9, 900)).decode == 2


def test_who_would_speak_too_late_is_refused() -> None:
    """Before anything is computed, and without being counted as waiting."""
    fleet = StillFleet(4)
    policy = mooncake(fleet, SPLIT)
    answers = [policy.arrive(job(n, *range(1_000 * n, 1_000 * n + 400)), 0.0) for n in range(40)]
    let_in = [answer for answer in answers if isinstance(answer, Way)]
    assert answers.index(LATE_FIRST_TOKEN) == len(let_in)
    assert set(answers[len(let_in) :]) == {LATE_FIRST_TOKEN}
    assert max(queue.wait_s(0.0) for queue in policy._queues.values()) <= SPLIT.ttft_slo_s


def test_decode_load_is_predicted_for_the_moment_the_prompt_is_computed() -> None:
    """Prompts let in count though they do not decode yet; those that will have ended by then do not."""
    fleet = StillFleet(2)
    quick = PolicyOptions(prefill_workers=1, ttft_slo_s=1e6, itl_slo_s=0.025)
    policy = mooncake(fleet, quick)
    at = 0
    while isinstance(policy.arrive(job(at, *range(500 * at, 500 * at + 150)), 0.0), Way):
        at += 1
        assert at < 2_000
    last = tuple(range(500 * at, 500 * at + 150))
    assert policy.arrive(job(5_000, *last), 1e9) == SLOW_TOKENS
    # One of them spoke and ended within a second: so do all, and at that moment nobody else decodes.
    policy.spoke(job(0), 10.0)
    policy.ended(job(0), 11.0, 1)
    assert isinstance(policy.arrive(job(5_001, *last), 1e9), Way)


@pytest.mark.parametrize("split", [None, 1])
def test_refused_requests_are_counted_and_no_good_ones(split: int | None) -> None:
    """In a whole replay: a burst that no one can serve in time."""
    trace = trace_of(*((0.0, 64 * 300, 3, ()) for _ in range(60)), trace_block_tokens=64)
    cluster = Cluster(
        trace,
        PEERS_ENGINE,
        worker_count=2,
        policy=lambda fleet: mooncake(fleet, PolicyOptions(prefill_workers=split)),
        itl_slo_s=0.025,
    )
    cluster.run()
    measures = measure(cluster, ttft_slo_s=2.0, itl_slo_s=0.025)
    reason = LATE_FIRST_TOKEN.reason
    assert measures.refused == {reason: measures.refused_count}
    assert 0 < measures.refused_count < 60
    assert measures.completed_count == 60 - measures.refused_count
    assert measures.goodput_count <= measures.completed_count
    assert measures.queue[-1].waiting_max_count <= measures.completed_count


def test_a_refusal_says_why() -> None:
    """The reasons differ."""
    assert isinstance(LATE_FIRST_TOKEN, Refusal)
    assert LATE_FIRST_TOKEN.reason != SLOW_TOKENS.reason
