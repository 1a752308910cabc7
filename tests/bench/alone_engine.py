"""Workers that only prefill, on a virtual clock: steps by the performance model, a prefix cache in LRU order.

Comes in: prompts as names of full KV blocks. Goes out: when each is computed, and what became readable or was
evicted meanwhile. Blocks are free for eviction as soon as the prompt is computed: nobody decodes here.
Invariant: one step at a time; prompts are begun in the order in which they came.
Not here: which prompt a worker gets (`alone_live`, `alone_pooled`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from services.domain.blocks import BlockHash, BlocksRemoved, BlocksStored, KvEvent, blocks_for
from services.domain.performance import PrefillChunk
from services.replay.cache import BlockCache
from services.replay.presets import EngineTiming

ROOT = BlockHash(2**63)
"""Stands before each first block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request of the trace."""

    index: int
    arrival_s: float
    prompt_tokens: int
    names: tuple[BlockHash, ...]
    """Of its full KV blocks: equal name = equal prefix."""
    late_s: float
    """TTFT beyond which it is not good."""


class Act(Protocol):
    """What happens at a moment."""

    def __call__(self) -> None:
        """Do it."""


class Clock:
    """Virtual time: acts in the order of their moments, then in that of their noting."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._numbers = count()
        self._acts: list[tuple[float, int, Act]] = []
        self._stopped = False

    def after(self, delay_s: float, act: Act) -> None:
        """Note an act."""
        heappush(self._acts, (self.now_s + delay_s, next(self._numbers), act))

    def run(self) -> None:
        """Do everything noted, whatever is noted meanwhile included, until stopped."""
        while self._acts and not self._stopped:
            self.now_s, _, act = heappop(self._acts)
            act()

    def stop(self) -> None:
        """Do nothing of what is still to come."""
        self._stopped = True


@dataclass(slots=True, kw_only=True)
class _Work:
    prompt: Prompt
    blocks: int
    shared: int = -1
    """Leading blocks that are readable; -1 before it was begun."""
    computed_tokens: int = 0


class Engine:
    """One worker's engine."""

    def __init__(self, timing: EngineTiming, cache: BlockCache) -> None:
        """Begin idle.

        Args:
            timing: how fast it is.
            cache: its own, or one that all share.
        """
        self.timing = timing
        self.cache = cache
        self.hit_tokens = 0
        self._works: deque[_Work] = deque()
        self._chunks: list[tuple[_Work, int]] = []

    @property
    def stepping(self) -> bool:
        """Whether a step is under way."""
        return bool(self._chunks)

    @property
    def work_count(self) -> int:
        """Prompts accepted and not computed yet."""
        return len(self._works)

    def left_tokens(self) -> int:
        """Prompt tokens accepted and not computed yet; what may be cached is not known before they begin."""
        return sum(work.prompt.prompt_tokens - work.computed_tokens for work in self._works)

    def submit(self, prompt: Prompt) -> None:
        """Accept a prompt."""
        blocks = blocks_for(prompt.prompt_tokens + 1, self.timing.block_size_tokens)
        self._works.append(_Work(prompt=prompt, blocks=blocks))

    def begin_step(self) -> float | None:
        """Begin a step; returns how long it takes, or None without anything to compute."""
        timing, room = self.timing, self.timing.step_tokens_max
        chunks: list[PrefillChunk] = []
        for work in self._works:
            if not room or (work.shared < 0 and not self._begin(work)):
                break
            tokens = min(room, work.prompt.prompt_tokens - work.computed_tokens)
            room -= tokens
            self._chunks.append((work, tokens))
            chunks.append(PrefillChunk(new_tokens=tokens, context_tokens=work.computed_tokens))
        return timing.performance.prefill_s(chunks) if chunks else None

    def end_step(self) -> list[Prompt]:
        """End the step; returns the prompts that are computed."""
        done: list[Prompt] = []
        for work, tokens in self._chunks:
            prompt = work.prompt
            work.computed_tokens += tokens
            full = min(work.computed_tokens // self.timing.block_size_tokens, len(prompt.names))
            if full > work.shared:
                self.cache.seal(prompt.names, work.shared, full)
                work.shared = full
            if work.computed_tokens == prompt.prompt_tokens:
                self._works.remove(work)
                self.cache.release(prompt.names, work.shared, work.blocks - work.shared)
                done.append(prompt)
        self._chunks.clear()
        return done

    def _begin(self, work: _Work) -> bool:
        prompt, size = work.prompt, self.timing.block_size_tokens
        readable = (prompt.prompt_tokens - 1) // size
        hits = self.cache.admit(prompt.names, min(readable, len(prompt.names)), work.blocks)
        if hits < 0:
            return False
        work.shared, work.computed_tokens = hits, hits * size
        self.hit_tokens += hits * size
        return True


def kv_events(cache: BlockCache, parents: dict[int, int]) -> tuple[KvEvent, ...]:
    """Turn what changed in a cache into events.

    Args:
        cache: keeps a journal.
        parents: name to the name before it, of everything that was ever stored.
    """
    events: list[KvEvent] = []
    run: list[BlockHash] = []
    gone: list[BlockHash] = []

    def close() -> None:
        if run:
            parent = parents.get(run[0])
            events.append(
                BlocksStored(parent=ROOT if parent is None else BlockHash(parent), hashes=tuple(run))
            )
            run.clear()
        if gone:
            events.append(BlocksRemoved(hashes=tuple(gone)))
            gone.clear()

    for name, stored in cache.take_journal():
        if stored:
            if gone or (run and parents.get(name) != run[-1]):
                close()
            run.append(BlockHash(name))
        else:
            if run:
                close()
            gone.append(BlockHash(name))
    close()
    return tuple(events)


def parents_of(prompts: Sequence[Prompt]) -> dict[int, int]:
    """Map each block's name to the one before it; first blocks are absent."""
    parents: dict[int, int] = {}
    for prompt in prompts:
        parents.update(zip(prompt.names[1:], prompt.names[:-1], strict=True))
    return parents
