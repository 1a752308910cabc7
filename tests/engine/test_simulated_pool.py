"""The block pool keeps its books, whatever holdings do."""

from collections import Counter
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from services.domain.blocks import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheScope,
    hash_blocks,
)
from services.engine.simulated.pool import BlockPool, Holding

CAPACITY = 12
ROOT = CacheScope(model="pool").root()

TEXTS = st.lists(st.integers(0, 1), min_size=1, max_size=8)
"""Blocks of one token out of two: prefixes are shared all the time."""


def chained(text: list[int]) -> tuple[BlockHash, ...]:
    """Hash a text of one-token blocks."""
    return hash_blocks(text, block_size_tokens=1, scope=CacheScope(model="pool"))


class PoolBooks(RuleBasedStateMachine):
    """Sequences come, fill their blocks and go, in any order; the books are compared with a plain model."""

    holdings = Bundle("holdings")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(CAPACITY)
        self.open: dict[Holding, list[int]] = {}
        self.parents: dict[BlockHash, BlockHash] = {}
        """What a listener to the events believes can be read, and behind what."""
        self.forgotten: set[BlockHash] = set()
        """Held, and to be read by nobody new."""

    @rule(target=holdings, text=TEXTS, blocks=st.integers(1, 9))
    def admit(self, text: list[int], blocks: int) -> Holding:
        """A sequence asks for blocks; it gets them exactly when they can be had."""
        holding = Holding(root=ROOT)
        prefix = chained(text)[:blocks]
        readable = self.pool.cached
        hits = next((i for i, h in enumerate(prefix) if h not in readable), len(prefix))
        held = {h for other in self.open for h in other.shared}
        taken = self.pool.used_blocks + blocks - sum(h in held for h in prefix[:hits])
        assert self.pool.admit(holding, prefix, blocks) == (taken <= CAPACITY)
        if taken <= CAPACITY:
            assert holding.shared == list(prefix[:hits])
            assert holding.blocks == blocks
            self.open[holding] = text
        return holding

    @rule(holding=holdings, more=st.integers(1, 3))
    def grow(self, holding: Holding, more: int) -> None:
        """A sequence needs more blocks; without room nothing changes."""
        if holding in self.open:
            before, used = holding.blocks, self.pool.used_blocks
            fits = used + more <= CAPACITY
            assert self.pool.grow(holding, before + more) == fits
            assert holding.blocks == before + more * fits

    @rule(holding=holdings, count=st.integers(1, 4))
    def fill(self, holding: Holding, count: int) -> None:
        """Blocks fill up and become readable, at once shared with whoever has the same content."""
        if holding in self.open:
            full = chained(self.open[holding])
            start = len(holding.shared)
            blocks = holding.blocks
            before = self.held()
            self.pool.seal(holding, full[start : start + min(count, holding.private)])
            assert holding.blocks == blocks
            assert tuple(holding.shared) == full[: len(holding.shared)]
            for parent, block_hash in pairwise(holding.shared):
                if parent in self.forgotten and block_hash not in before:
                    self.forgotten.add(block_hash)

    @rule(holding=consumes(holdings))
    def end(self, holding: Holding) -> None:
        """A sequence ends and holds nothing; a second time changes nothing."""
        self.open.pop(holding, None)
        self.pool.release(holding)
        self.pool.release(holding)
        assert holding.blocks == 0
        self.forgotten &= self.held()

    @rule()
    def forget(self) -> None:
        """Nobody new reads what was cached, whoever holds it."""
        self.pool.forget()
        assert self.pool.cached == frozenset()
        self.forgotten = self.held()

    @rule()
    def clear(self) -> None:
        """The cache is dropped only while nobody uses it."""
        idle = self.pool.used_blocks == 0
        assert self.pool.clear() == idle
        if idle:
            assert self.pool.cached == frozenset()

    def held(self) -> set[BlockHash]:
        """Hashes that any sequence holds."""
        return {h for holding in self.open for h in holding.shared}

    @invariant()
    def used_blocks_are_the_held_ones(self) -> None:
        """Each shared block counts once, each private one counts; no more than there are."""
        shared = {h for holding in self.open for h in holding.shared}
        private = sum(holding.private for holding in self.open)
        assert self.pool.used_blocks == len(shared) + private <= CAPACITY
        assert private + len(self.pool.cached) <= CAPACITY
        assert shared - self.forgotten <= self.pool.cached
        assert not self.forgotten & self.pool.cached

    @invariant()
    def events_tell_exactly_what_is_readable(self) -> None:
        """Replayed, the events store nothing twice, remove nothing strange and end at the pool's content."""
        for event in self.pool.take_events():
            match event:
                case BlocksStored(parent=parent, hashes=hashes):
                    for block_hash in hashes:
                        assert parent == ROOT or parent in self.parents
                        assert block_hash not in self.parents
                        self.parents[block_hash] = parent
                        parent = block_hash
                case BlocksRemoved(hashes=hashes):
                    for block_hash in hashes:
                        del self.parents[block_hash]
                case BlocksCleared():
                    self.parents.clear()
        assert self.parents.keys() == self.pool.cached
        assert all(parent == ROOT or parent in self.parents for parent in self.parents.values())

    def teardown(self) -> None:
        """Blocks in = blocks out."""
        for holding in self.open:
            self.pool.release(holding)
        assert self.pool.used_blocks == 0


PoolBooks.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolBooks = PoolBooks.TestCase


def held(pool: BlockPool, text: list[int], blocks: int | None = None) -> Holding:
    """Hold a text and fill all its blocks."""
    holding = Holding(root=ROOT)
    full = chained(text)
    assert pool.admit(holding, full, blocks or len(full))
    pool.seal(holding, full[len(holding.shared) :])
    return holding


def test_tail_of_a_sequence_is_evicted_first() -> None:
    """Of one ended sequence the last blocks go first: its prefix is worth more."""
    pool = BlockPool(4)
    text = [0, 1, 0, 1]
    pool.release(held(pool, text))
    newcomer = Holding(root=ROOT)
    assert pool.admit(newcomer, (), 2)
    assert pool.cached == set(chained(text)[:2])


def test_least_recently_used_goes_first() -> None:
    """Between ended sequences the one that was used longest ago loses its blocks."""
    pool = BlockPool(4)
    old, young = held(pool, [0, 0]), held(pool, [1, 1])
    pool.release(old)
    pool.release(young)
    pool.release(held(pool, [0, 0]))
    assert pool.admit(Holding(root=ROOT), (), 2)
    assert pool.cached == set(chained([0, 0]))


def test_equal_content_is_held_once() -> None:
    """Two sequences that computed the same prefix at once share it from then on."""
    pool = BlockPool(8)
    first, second = Holding(root=ROOT), Holding(root=ROOT)
    full = chained([0, 1])
    for holding in (first, second):
        assert pool.admit(holding, full, 3)
    assert pool.used_blocks == 6
    pool.seal(first, full)
    pool.seal(second, full)
    assert pool.used_blocks == 4
    stored = Counter(h for e in pool.take_events() if isinstance(e, BlocksStored) for h in e.hashes)
    assert stored == dict.fromkeys(full, 1)


def test_tainted_content_taints_its_readers() -> None:
    """Whoever reuses a block of wrong content is wrong as well; who computes it anew is not."""
    pool = BlockPool(8)
    wrong = Holding(root=ROOT, tainted=True)
    full = chained([0, 1])
    assert pool.admit(wrong, (), 2)
    pool.seal(wrong, full)
    reader, other = Holding(root=ROOT), Holding(root=ROOT)
    assert pool.admit(reader, full, 3)
    assert pool.admit(other, chained([1]), 1)
    assert reader.tainted
    assert not other.tainted
