"""Paged KV with a prefix cache: who holds how many blocks, and which blocks can be read again.

Comes in: holdings that grow, fill blocks and end. Goes out: room or no room, and KV events in the order
in which the cache changed. A block is either private to one holding (no hash yet) or cached under its
hash and shared by reference count; its physical number means nothing in a simulation and is left out.
Blocks without references stay readable, least recently used first to go, and of one sequence its tail
first, as in vLLM 0.32. Unlike vLLM, a block that fills up with content cached already is shared at once
instead of being kept twice. Invariants: private + cached <= capacity; the parent of a readable block is
readable; a hash is stored once until it is removed. Not here: tokens, schedules, leases.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.domain.blocks import BlockHash, BlocksCleared, BlocksRemoved, BlocksStored, KvEvent


@dataclass(slots=True, eq=False, kw_only=True)
class Holding:
    """The blocks of one sequence or lease.

    Attributes:
        root: hash that stands before the first block.
        shared: hashes of the leading full blocks, each with one reference of this holding.
        private: blocks behind them, not readable for others.
        tainted: the content is not what the hashes say (a wrong ticket was pulled).
    """

    root: BlockHash
    shared: list[BlockHash] = field(default_factory=list)
    private: int = 0
    tainted: bool = False

    @property
    def blocks(self) -> int:
        """Blocks held."""
        return len(self.shared) + self.private


@dataclass(slots=True, eq=False)
class _Cached:
    references: int
    tainted: bool
    readable: bool = True
    """Forgotten blocks stay with whoever holds them and are shared with nobody new."""


class BlockPool:
    """All KV blocks of one engine."""

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self._private = 0
        self._cached: dict[BlockHash, _Cached] = {}
        self._idle: OrderedDict[BlockHash, None] = OrderedDict()
        self._events: list[KvEvent] = []

    @property
    def used_blocks(self) -> int:
        """Blocks that somebody holds and that therefore cannot be evicted."""
        return self._private + len(self._cached) - len(self._idle)

    @property
    def cached(self) -> frozenset[BlockHash]:
        """Hashes of all readable blocks, held or not."""
        return frozenset(block_hash for block_hash, entry in self._cached.items() if entry.readable)

    def admit(self, holding: Holding, prefix: Sequence[BlockHash], blocks: int) -> bool:
        """Give an empty holding its blocks: cached ones as far as the prefix goes, private ones behind.

        Args:
            holding: holds nothing yet.
            prefix: hashes that may be reused, in order; at most `blocks` of them.
            blocks: blocks needed in all.

        Returns:
            Whether there was room; if not, nothing changed.
        """
        hits: list[BlockHash] = []
        idle_hits = 0
        tainted = False
        for block_hash in prefix:
            entry = self._cached.get(block_hash)
            if entry is None or not entry.readable:
                break
            hits.append(block_hash)
            idle_hits += entry.references == 0
            tainted = tainted or entry.tainted
        if blocks - len(hits) > self.capacity_blocks - self.used_blocks - idle_hits:
            return False
        for block_hash in hits:
            self._refer(block_hash)
        holding.shared = hits
        holding.tainted = holding.tainted or tainted
        return self.grow(holding, blocks)

    def grow(self, holding: Holding, blocks: int) -> bool:
        """Add private blocks until the holding has `blocks`; False, and no change, without room."""
        missing = blocks - holding.blocks
        if missing <= 0:
            return True
        if missing > self.capacity_blocks - self.used_blocks:
            return False
        self._evict(missing - (self.capacity_blocks - self._private - len(self._cached)))
        holding.private += missing
        self._private += missing
        return True

    def seal(self, holding: Holding, hashes: Sequence[BlockHash]) -> None:
        """Make the holding's next private blocks readable: they are full now.

        Args:
            holding: has at least as many private blocks.
            hashes: of these blocks, in order, chained behind the holding's last shared one.
        """
        stored: list[BlockHash] = []
        readable = not holding.shared or self._cached[holding.shared[-1]].readable
        for block_hash in hashes:
            holding.private -= 1
            self._private -= 1
            if block_hash in self._cached:
                self._refer(block_hash)
                readable = self._cached[block_hash].readable
            else:
                self._cached[block_hash] = _Cached(1, holding.tainted, readable)
                if readable:
                    stored.append(block_hash)
            holding.shared.append(block_hash)
        if stored:
            before = len(holding.shared) - len(stored)
            parent = holding.shared[before - 1] if before else holding.root
            self._events.append(BlocksStored(parent=parent, hashes=tuple(stored)))

    def release(self, holding: Holding) -> None:
        """Take all blocks back; full ones stay readable until room is needed. Idempotent."""
        self._private -= holding.private
        holding.private = 0
        for block_hash in reversed(holding.shared):
            entry = self._cached[block_hash]
            entry.references -= 1
            if entry.references == 0 and entry.readable:
                self._idle[block_hash] = None
            elif entry.references == 0:
                del self._cached[block_hash]
        holding.shared = []

    def clear(self) -> bool:
        """Forget every readable block; False, and no change, while somebody holds blocks."""
        if self.used_blocks:
            return False
        if self._cached:
            self._cached.clear()
            self._idle.clear()
            self._events.append(BlocksCleared())
        return True

    def forget(self) -> None:
        """Let no block be read by anyone new; those who hold blocks keep them."""
        if any(entry.readable for entry in self._cached.values()):
            self._events.append(BlocksCleared())
        for block_hash in self._idle:
            del self._cached[block_hash]
        self._idle.clear()
        for entry in self._cached.values():
            entry.readable = False

    def take_events(self) -> tuple[KvEvent, ...]:
        """Hand out the events since the last call, in order."""
        if not self._events:
            return ()
        events = tuple(self._events)
        self._events.clear()
        return events

    def _refer(self, block_hash: BlockHash) -> None:
        entry = self._cached[block_hash]
        if entry.references == 0:
            del self._idle[block_hash]
        entry.references += 1

    def _evict(self, count: int) -> None:
        if count <= 0:
            return
        removed = tuple(self._idle.popitem(last=False)[0] for _ in range(count))
        for block_hash in removed:
            del self._cached[block_hash]
        self._events.append(BlocksRemoved(hashes=removed))
