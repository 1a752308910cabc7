"""Paged KV of one worker with a prefix cache, counted rather than kept.

Comes in: prompts as names of full blocks, growth, ends. Goes out: room or no room, and how much of a prompt
is cached. As the simulated engine's pool (`services.engine.simulated.pool`), in plain integers: a block is
private to one holder, or cached under its name with a count of those who refer to it; unreferenced ones stay
readable, least recently used first to go, of one sequence its tail first. Whoever holds blocks remembers how
many leading ones are shared and how many private.
Invariants: private + cached <= capacity; the parent of a cached block is cached, so leading blocks are found
by bisection. Not here: whose blocks they are (`worker`).
"""

from collections import OrderedDict
from collections.abc import Sequence


class BlockCache:
    """All KV blocks of one worker."""

    def __init__(self, capacity_blocks: int) -> None:
        """Make an empty cache."""
        self.capacity_blocks = capacity_blocks
        self.private = 0
        self._references: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._journal: list[tuple[int, bool]] | None = None
        self._parents: dict[int, int] = {}
        self._heirs: dict[int, int] = {}
        """Cached blocks behind each cached block that has any."""

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds: empty, or evictable."""
        return self.capacity_blocks - self.private - len(self._references) + len(self._idle)

    @property
    def cached_blocks(self) -> int:
        """Readable blocks, held or not."""
        return len(self._references)

    def keep_journal(self) -> None:
        """Note from now on which names become readable (True) or are evicted (False), for `take_journal`."""
        self._journal = []

    def take_journal(self) -> list[tuple[int, bool]]:
        """Hand out what was noted since the last call, in order."""
        if not self._journal:
            return []
        taken, self._journal = self._journal, []
        return taken

    def overlap_blocks(self, names: Sequence[int]) -> int:
        """Count the leading blocks that are cached."""
        references = self._references
        if not names or names[0] not in references:
            return 0
        low, high = 1, len(names)
        while low < high:
            middle = (low + high + 1) // 2
            if names[middle - 1] in references:
                low = middle
            else:
                high = middle - 1
        return low

    def admit(self, names: Sequence[int], readable: int, blocks: int) -> int:
        """Give a new holder its blocks: cached ones as far as they go, private ones behind.

        Args:
            names: of the holder's full blocks.
            readable: how many leading ones may be shared.
            blocks: needed in all, >= readable.

        Returns:
            Blocks shared; -1, and no change, when there is no room.
        """
        references, idle = self._references, self._idle
        hits = self.overlap_blocks(names[:readable] if readable < len(names) else names)
        shared = names[:hits]
        free = self.free_blocks - sum(1 for name in shared if references[name] == 0)
        if blocks - hits > free:
            return -1
        for name in shared:
            count = references[name]
            if count == 0:
                del idle[name]
            references[name] = count + 1
        self.take(blocks - hits)
        return hits

    def grow(self, blocks: int) -> bool:
        """Take more private blocks; False, and no change, without room."""
        if blocks > self.free_blocks:
            return False
        self.take(blocks)
        return True

    def seal(self, names: Sequence[int], start: int, stop: int) -> None:
        """Make a holder's next private blocks readable: they are full now.

        Args:
            names: of the holder's full blocks.
            start: how many are shared already.
            stop: how many will be.
        """
        references = self._references
        heirs, parents = self._heirs, self._parents
        for place in range(start, stop):
            name = names[place]
            count = references.get(name)
            if count is None:
                references[name] = 1
                if place:
                    parent = parents[name] = names[place - 1]
                    heirs[parent] = heirs.get(parent, 0) + 1
                if self._journal is not None:
                    self._journal.append((name, True))
            else:
                if count == 0:
                    del self._idle[name]
                references[name] = count + 1
        self.private -= stop - start

    def release(self, names: Sequence[int], shared: int, private: int, *, cold: bool = False) -> None:
        """Take all blocks of a holder back; full ones stay readable until room is needed.

        Args:
            names: of its full blocks.
            shared: how many leading ones are shared.
            private: blocks behind them.
            cold: evict them before all others: somebody else has them.
        """
        references, idle = self._references, self._idle
        self.private -= private
        leaves: list[int] = []
        for name in reversed(names[:shared]):
            count = references[name] - 1
            references[name] = count
            if count == 0:
                idle[name] = None
                if cold and self._heirs.get(name, 0) == (1 if leaves else 0):
                    leaves.append(name)
                else:
                    cold = False
            else:
                cold = False
        for name in reversed(leaves):
            idle.move_to_end(name, last=False)

    def pin(self, names: Sequence[int], blocks: int) -> int:
        """Hold leading blocks that are cached, at most so many; returns how many."""
        held = min(blocks, self.overlap_blocks(names))
        for name in names[:held]:
            count = self._references[name]
            if count == 0:
                del self._idle[name]
            self._references[name] = count + 1
        return held

    def take(self, blocks: int) -> None:
        """Take private blocks that are known to be free."""
        missing = blocks - (self.capacity_blocks - self.private - len(self._references))
        for _ in range(missing):
            name, _none = self._idle.popitem(last=False)
            del self._references[name]
            parent = self._parents.pop(name, None)
            if parent is not None:
                self._heirs[parent] -= 1
                if not self._heirs[parent]:
                    del self._heirs[parent]
            if self._journal is not None:
                self._journal.append((name, False))
        self.private += blocks
