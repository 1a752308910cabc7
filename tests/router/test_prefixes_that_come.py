"""What a worker computes, or surely will, counts as held there: a prompt that begins alike is named to it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.blocks import BlockHash
from services.domain.ids import WorkerId
from services.domain.placement import PathPreference
from services.domain.task import Claim, QueuedTask, mark_prefix
from services.domain.worker import WorkerLoad
from services.router.prefixes.coming import Coming, ComingPrefixes
from tests.prefill.test_order_of_claims import queued
from tests.router.scenery import DECODE, MODEL, PREFILL, holding, placed, query, router_of, worker

W0, W1 = WorkerId("p0"), WorkerId("p1")


def waiting(
    hashes: tuple[BlockHash, ...],
    *,
    claimed_by: WorkerId | None = None,
    named: WorkerId | None = None,
    held_blocks: int = 0,
) -> QueuedTask:
    """Make a task of a prompt."""
    task = queued(f"t{hashes[-1]}", tokens=16 * len(hashes) + 5)
    record = replace(
        task.record,
        model=MODEL,
        marks=mark_prefix(hashes),
        preferred_worker_id=named,
        preferred_overlap_blocks=held_blocks,
    )
    claim = None if claimed_by is None else Claim(worker_id=claimed_by, attempt=1)
    return replace(task, record=record, claim=claim)


def chain(common: int, own: int, seed: int) -> tuple[BlockHash, ...]:
    """Make a prompt of blocks that all share and blocks of its own."""
    return tuple(BlockHash(i + 1) for i in range(common)) + tuple(
        BlockHash(seed * 10**6 + i) for i in range(own)
    )


def test_a_router_names_the_worker_that_computes_the_beginning() -> None:
    """All are equally busy, and one of them with a prompt that begins alike."""
    busy = WorkerLoad(waiting_prefill_tokens=8005, waiting_count=1)
    for computes in (W0, W1):
        router = router_of(
            worker("d", DECODE), worker(W0, PREFILL, load=busy), worker(W1, PREFILL, load=busy)
        )
        asked = query("r", prompt_tokens=8005, hashes=chain(490, 10, 2), preference=PathPreference.REMOTE)
        task = waiting(chain(490, 10, 1), claimed_by=computes)
        router.fold_queue([task], 0.0)
        router.fold_status(worker(computes, PREFILL, load=busy, sequence=2), 5.0)  # it shows the claim
        found = placed(router, asked)
        assert found.worker_id == computes
        assert 490 - 8 < found.overlap_blocks <= 490
        assert f"worker {computes} will hold" in found.reason


def test_what_is_there_is_said_to_be_held() -> None:
    """A worker that holds the whole beginning is not waited for to compute it."""
    busy = WorkerLoad(waiting_prefill_tokens=8005, waiting_count=1)
    router = router_of(worker("d", DECODE), worker(W0, PREFILL), worker(W1, PREFILL, load=busy))
    asked = query("r", prompt_tokens=8005, hashes=chain(490, 10, 2), preference=PathPreference.REMOTE)
    holding(router, W0, asked, 500)
    router.fold_queue([waiting(chain(490, 10, 1), claimed_by=W0)], 0.0)
    found = placed(router, asked)
    assert (found.worker_id, found.overlap_blocks) == (W0, 500)
    assert f"worker {W0} holds" in found.reason


def test_a_waiting_prompt_counts_where_it_surely_is_computed() -> None:
    """Of a prompt that waits, at the worker that holds most of it; one of which nobody does is anybody's."""
    task, hashes = chain(400, 100, 1), chain(400, 100, 2)
    for held_blocks, expected in ((300, {W0: 400}), (200, {})):
        coming, overlaps = ComingPrefixes(), dict[WorkerId, int]()
        coming.fold([waiting(task, named=W0, held_blocks=held_blocks)])
        found = coming.lengthen(overlaps, hashes)
        assert overlaps == expected
        assert (found is not None) == bool(expected)
    coming.fold([waiting(task, named=W0, held_blocks=300), waiting(task, claimed_by=W1)])
    assert coming.lengthen({}, hashes) == Coming(W1, 400)
    coming.fold([])
    assert coming.lengthen({}, hashes) is None


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300), st.sampled_from((W0, W1))), max_size=6),
    st.integers(0, 300),
    st.integers(0, 300),
    st.dictionaries(st.sampled_from((W0, W1)), st.integers(0, 600)),
)
def test_an_overlap_grows_by_what_is_computed_and_by_no_more(
    tasks: list[tuple[int, int, WorkerId]], common: int, own: int, held: dict[WorkerId, int]
) -> None:
    """No worker gets blocks that none of its prompts has, nor loses any; only one of them gets some."""
    claimed = [
        waiting(chain(shared, rest, seed + 2), claimed_by=at) for seed, (shared, rest, at) in enumerate(tasks)
    ]
    coming, overlaps = ComingPrefixes(), dict(held)
    coming.fold(claimed)
    found = coming.lengthen(overlaps, chain(common, own, 1))
    grown = {at for at in overlaps if overlaps[at] != held.get(at)}
    assert grown == (set() if found is None else {found.worker_id})
    for at in grown:
        assert overlaps[at] > held.get(at, 0)
        assert overlaps[at] <= max(min(shared, common) for shared, _, where in tasks if where == at)
