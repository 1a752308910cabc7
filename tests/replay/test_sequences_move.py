"""Sequences go on at another worker: no token is lost or late, and one worker or the other has the blocks."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replay.cluster import Cluster
from services.replay.policies.baton_moves import COPY_FRAC_MAX, Holding, choose_moves
from services.replay.policy import Fleet, Mechanisms, Move, Running
from services.replay.traces import Trace
from tests.replay.choosing import job
from tests.replay.scenery import (
    PEERS_ENGINE,
    Restless,
    engine,
    mechanisms,
    token_times_s,
    trace_of,
    traces,
)
from tests.replay.test_replay_conserves import assert_whole


@settings(max_examples=60, deadline=None)
@given(trace=traces(), ways=mechanisms, kv_blocks=st.sampled_from([60, 90, 400]))
def test_nothing_is_lost_however_often_sequences_move(trace: Trace, ways: Mechanisms, kv_blocks: int) -> None:
    """With room and without, every token comes once, every block comes back, every move is told of once."""
    made: list[Restless] = []

    def make(fleet: Fleet) -> Restless:
        made.append(Restless(fleet, ways))
        return made[0]

    cluster = Cluster(trace, engine(kv_blocks=kv_blocks), worker_count=3, policy=make, itl_slo_s=0.02)
    cluster.run()
    assert_whole(cluster)
    assert not made[0].moving
    assert cluster.journeys.moves is not None
    assert cluster.journeys.moves.done_count == sum(is_there for _, is_there in made[0].ends)


class Once(Restless):
    """Moves the first request's sequence, once, as soon as it decodes."""

    def moves(self, now_s: float) -> list[Move]:
        """Move it."""
        found = [] if self.ends or self.moving else super().moves(now_s)
        self.moving = {index for index in self.moving if index == 0}
        return [move for move in found if move.job.index == 0]


@pytest.mark.parametrize("output_tokens", [2, 40])
def test_a_sequence_goes_on_where_it_moved_to(output_tokens: int) -> None:
    """It writes at its source until its KV is copied, then at the target; one that ends before stays."""
    made: list[Once] = []

    def make(fleet: Fleet) -> Once:
        made.append(Once(fleet, Mechanisms()))
        return made[0]

    trace = trace_of((0.0, 20, output_tokens, ()), (0.0, 20, 2, ()))
    cluster = Cluster(trace, engine(), worker_count=2, policy=make, itl_slo_s=0.02)
    cluster.run()
    ((index, is_there),) = made[0].ends
    record = cluster.records[0]
    workers = [worker for worker, _, _ in record.spans]
    times_s = token_times_s(cluster)[0]
    assert index == 0
    assert is_there == (output_tokens == 40)
    assert len(set(workers)) == 1 + is_there
    assert workers[-1] == record.decode_worker
    assert len(times_s) == record.output_tokens
    assert all(after - before <= 0.02 for before, after in pairwise(times_s[1:]))


PERFORMANCE = PEERS_ENGINE.performance


def held(worker: int, *contexts: int) -> tuple[Holding, list[Running]]:
    """A worker that decodes sequences of so many tokens."""
    holding = Holding(
        worker=worker,
        sequence_count=len(contexts),
        context_tokens=sum(contexts),
        free_blocks=PEERS_ENGINE.kv_blocks - sum(contexts) // 64 - len(contexts),
        is_source=True,
        is_target=True,
    )
    jobs = [job(100 * worker + number, tail_tokens=tokens) for number, tokens in enumerate(contexts)]
    return holding, [Running(job=one, context_tokens=one.prompt_tokens) for one in jobs]


def chosen(
    *workers: tuple[Holding, list[Running]], decoders: int = 2, life_s: float = 5.0, limit_s: float = 0.02
) -> list[tuple[int, int, int]]:
    """Choose moves among these workers: (tokens, source, target) each."""
    moves = choose_moves(
        [holding for holding, _ in workers],
        [running for _, running in workers],
        timing=PEERS_ENGINE,
        decoders=decoders,
        limit_s=limit_s,
        growth_blocks=10,
        life_s=life_s,
    )
    return [(move.job.prompt_tokens, move.source, move.target) for move in moves]


def test_the_emptiest_worker_is_emptied_into_the_fullest() -> None:
    """Its longest sequence first, each to the fullest that has room for it."""
    workers = held(0, 90_000, 80_000), held(1, 9_000, 12_000), held(2, 200_000), held(3)
    assert chosen(*workers) == [(12_000, 1, 2), (9_000, 1, 2)]


def test_what_a_burst_left_behind_is_shared_with_a_worker_that_has_nothing() -> None:
    """The shortest of the fullest move until both steps are alike; the other holder keeps what it has."""
    burst = [5_000 + number for number in range(60)]
    workers = held(0, *burst), held(1, 2_000), held(2), held(3)
    moves = chosen(*workers, decoders=3, limit_s=0.014, life_s=60.0)
    assert [tokens for tokens, _, _ in moves] == burst[: len(moves)]
    assert {(source, target) for _, source, target in moves} == {(0, 2)}
    left, came = step_of(burst[len(moves) :]), step_of(burst[: len(moves)])
    assert came <= left <= came + 2 * (step_of(burst[:2]) - step_of(burst[:1]))


def test_nothing_is_shared_without_need_or_beyond_what_pays() -> None:
    """Not while as many decode as should, not within the limit; and no more than is soon copied."""
    workers = held(0, *[5_000] * 60), held(1), held(2)
    assert not chosen(*workers, decoders=1, limit_s=0.01)
    assert not chosen(*workers, decoders=2, limit_s=step_of([5_000] * 60))
    copy_s = PERFORMANCE.transfer_s(5_000 * PEERS_ENGINE.kv_bytes_per_token)
    assert len(chosen(*workers, decoders=2, limit_s=0.01, life_s=10.01 * copy_s / COPY_FRAC_MAX)) == 10


def step_of(contexts: list[int]) -> float:
    """A decode step over sequences of so many tokens."""
    return PERFORMANCE.decode_s(sequence_count=len(contexts), context_tokens=sum(contexts))


def test_nobody_moves_where_no_worker_comes_free() -> None:
    """Not where as few decode as should, and not where one of its sequences would fit nowhere."""
    assert not chosen(held(0, 90_000), held(1, 9_000))
    assert not chosen(held(0, 290_000), held(1, 60_000, 1_000), held(2, 290_000), limit_s=0.0195)
    assert chosen(held(0, 290_000), held(1, 1_000), held(2, 290_000), limit_s=0.0195)


def test_nobody_moves_for_longer_than_pays() -> None:
    """Copying takes its time, beside that for which an output is written."""
    workers = held(0, 90_000), held(1, 60_000), held(2, 90_000)
    copy_s = PERFORMANCE.transfer_s(60_000 * PEERS_ENGINE.kv_bytes_per_token)
    assert chosen(*workers, life_s=1.01 * copy_s / COPY_FRAC_MAX)
    assert not chosen(*workers, life_s=0.99 * copy_s / COPY_FRAC_MAX)


@given(
    contexts=st.lists(st.lists(st.integers(1, 120_000), max_size=6), min_size=2, max_size=6),
    decoders=st.integers(1, 5),
    limit_s=st.floats(0.007, 0.025),
)
def test_no_worker_is_filled_beyond_the_limit(
    contexts: list[list[int]], decoders: int, limit_s: float
) -> None:
    """A worker is emptied, or was beyond the limit; each target stays within what a step may take."""
    workers = [held(worker, *tokens) for worker, tokens in enumerate(contexts)]
    moves = chosen(*workers, decoders=decoders, limit_s=limit_s)
    if moves:
        assert len({source for _, source, _ in moves}) == 1
        source = moves[0][1]
        if sum(map(bool, contexts)) > decoders:
            assert sorted(tokens for tokens, _, _ in moves) == sorted(contexts[source])
        else:
            assert step_of(contexts[source]) > limit_s
            assert len(moves) < len(contexts[source])
    for worker, tokens in enumerate(contexts):
        came = [moved for moved, _, target in moves if target == worker]
        if came:
            assert step_of([*tokens, *came]) <= limit_s
