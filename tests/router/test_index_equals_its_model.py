"""The index says what a plain set of blocks per worker would say, under any order of events."""

import string
from collections.abc import Iterator, Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    KvEvent,
    KvEventBatch,
    KvSnapshot,
)
from services.domain.ids import EngineEpoch, WorkerId
from services.router.prefixes.findings import Applied, GapFound
from services.router.prefixes.index import PrefixIndex

WORKERS = tuple(WorkerId(name) for name in string.ascii_lowercase[:5])
CHAIN = tuple(BlockHash(0x9E3779B97F4A7C15 * (i + 1) & (2**64 - 1)) for i in range(192))
CAPACITY = len(CHAIN)
E1 = EngineEpoch("e1")


def index_of(workers: Sequence[WorkerId] = WORKERS, kv_blocks: int = CAPACITY) -> PrefixIndex:
    """An index that follows fresh engines."""
    index = PrefixIndex(slack_frac=0.0, batches_waiting_max=4)
    for worker_id in workers:
        index.fold_worker(worker_id, epoch=E1, kv_blocks=kv_blocks, kv_sequence=0)
    return index


def batch(worker_id: WorkerId, sequence: int, *events: KvEvent, epoch: EngineEpoch = E1) -> KvEventBatch:
    """One batch."""
    return KvEventBatch(worker_id=worker_id, epoch=epoch, sequence=sequence, events=events)


def stored(hashes: Sequence[BlockHash]) -> BlocksStored:
    """Blocks came in."""
    return BlocksStored(parent=BlockHash(0), hashes=tuple(hashes))


def runs_of(held: set[BlockHash]) -> tuple[BlocksStored, ...]:
    """A set as a snapshot tells it: each run of consecutive blocks behind its parent."""
    told: list[BlocksStored] = []
    for parent, block_hash in pairwise((BlockHash(0), *CHAIN)):
        if block_hash in held and told and (told[-1].hashes or (told[-1].parent,))[-1] == parent:
            told[-1] = BlocksStored(parent=told[-1].parent, hashes=(*told[-1].hashes, block_hash))
        elif block_hash in held:
            told.append(BlocksStored(parent=parent, hashes=(block_hash,)))
    return tuple(told)


def leading(hashes: Sequence[BlockHash], held: set[BlockHash]) -> int:
    """Overlap by definition."""
    return next((i for i, h in enumerate(hashes) if h not in held), len(hashes))


@st.composite
def events(draw: st.DrawFn) -> KvEvent:
    """Prefixes come, single blocks anywhere in the chain go, sometimes everything goes."""
    depth = draw(st.integers(0, len(CHAIN)))
    match draw(st.sampled_from(("store", "store", "evict", "evict", "evict", "clear"))):
        case "store":
            return stored(CHAIN[:depth])
        case "evict":
            return BlocksRemoved(hashes=CHAIN[depth : depth + draw(st.integers(1, 3))])
        case _:
            return BlocksCleared()


def apply(held: set[BlockHash], event: KvEvent) -> None:
    """Do to a plain set what the event says."""
    match event:
        case BlocksStored():
            held.update(event.hashes)
        case BlocksRemoved():
            held.difference_update(event.hashes)
        case BlocksCleared():
            held.clear()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORKERS), events()), max_size=30), st.integers(0, len(CHAIN)))
def test_overlaps_equal_brute_force(history: list[tuple[WorkerId, KvEvent]], asked: int) -> None:
    """After any history, blocks evicted from the middle included, each overlap is the leading run."""
    index = index_of()
    held: dict[WorkerId, set[BlockHash]] = {w: set() for w in WORKERS}
    sequences = dict.fromkeys(WORKERS, 0)
    for worker_id, event in history:
        sequences[worker_id] += 1
        assert isinstance(index.fold(batch(worker_id, sequences[worker_id], event)), Applied)
        apply(held[worker_id], event)
    prompt = CHAIN[:asked]
    expected = {w: n for w in WORKERS if (n := leading(prompt, held[w])) > 0}
    assert index.overlaps(prompt) == expected
    assert len(index) == len(set().union(*held.values()))
    assert all(index.holds_blocks(w) == len(held[w]) for w in WORKERS)


@settings(max_examples=100, deadline=None)
@given(st.lists(events(), min_size=1, max_size=12), st.data())
def test_any_loss_is_mended_by_a_snapshot(history: list[KvEvent], data: st.DataObject) -> None:
    """Whatever batches are lost, a snapshot taken at any later moment brings the index back to truth."""
    worker_id = WORKERS[0]
    index = index_of((worker_id,))
    truth = list(states(history))
    lost = data.draw(st.sets(st.integers(1, len(history)), max_size=len(history)))
    for sequence, event in enumerate(history, 1):
        if sequence not in lost:
            index.fold(batch(worker_id, sequence, event))
    index.fold_worker(worker_id, epoch=E1, kv_blocks=CAPACITY, kv_sequence=len(history))
    index.fold_worker(worker_id, epoch=E1, kv_blocks=CAPACITY, kv_sequence=len(history))
    while index.awaiting():
        held = truth[-1]
        index.fold_snapshot(
            KvSnapshot(worker_id=worker_id, epoch=E1, sequence=len(history), stored=runs_of(held))
        )
    assert index.overlaps(CHAIN).get(worker_id, 0) == leading(CHAIN, truth[-1])
    assert index.holds_blocks(worker_id) == len(truth[-1])


def states(history: Sequence[KvEvent]) -> Iterator[set[BlockHash]]:
    """What a worker holds after each event."""
    held: set[BlockHash] = set()
    for event in history:
        apply(held, event)
        yield set(held)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=40), max_size=20), st.integers(1, 30))
def test_the_bound_holds(blocks: list[list[int]], kv_blocks: int) -> None:
    """A worker that never reports an eviction still takes no more than its capacity."""
    index = index_of(WORKERS[:1], kv_blocks)
    for sequence, hashes in enumerate(blocks, 1):
        index.fold(batch(WORKERS[0], sequence, stored([BlockHash(h) for h in hashes])))
        assert index.holds_blocks(WORKERS[0]) <= index.blocks_max() == kv_blocks
        assert len(index) <= kv_blocks


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(6)))
def test_slots_are_used_again(order: list[int]) -> None:
    """Workers that come and go leave nothing behind, and never inherit another's blocks."""
    index = index_of(())
    for round_count, i in enumerate(order):
        worker_id = WorkerId(f"w{i}")
        index.fold_worker(worker_id, epoch=E1, kv_blocks=CAPACITY, kv_sequence=0)
        assert worker_id not in index.overlaps(CHAIN)
        index.fold(batch(worker_id, 1, stored(CHAIN[: i + 1])))
        if round_count % 2:
            index.forget(worker_id)
            assert worker_id not in index.overlaps(CHAIN)
    for i in order:
        index.forget(WorkerId(f"w{i}"))
    assert (len(index), index.blocks_max()) == (0, 0)


def test_a_gap_is_said_once() -> None:
    """The first batch behind a gap asks for a snapshot; those after it only wait."""
    index = index_of()
    answers = [index.fold(batch(WORKERS[0], n, stored(CHAIN[:n]))) for n in (1, 3, 4)]
    assert [isinstance(a, GapFound) for a in answers] == [False, True, False]
    assert answers[1] == GapFound(worker_id=WORKERS[0], expected=2, got=3)
