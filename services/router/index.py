"""Who holds which KV blocks: a prefix index kept from workers' KV events.

Comes in: numbered batches and snapshots, and each worker's capacity. Goes out: per worker, how many
leading blocks of a prompt it holds. Invariant: a worker's blocks are exactly what its events up to its
sequence number say, or the index has said `GapFound` and awaits a snapshot; no worker has more than its
capacity plus slack, no more than `batches_waiting_max` batches wait for a snapshot.
Not here: asking for snapshots (`services.router.feed`), judging a worker's events (`accuracy`).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, repeat
from operator import and_
from typing import assert_never

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
from services.router.findings import Applied, Folded, GapFound, StaleEpoch, UnknownWorker, Waiting

LOOK_UP_BLOCKS = 64
"""Blocks looked up at once before asking whether anybody is left: long enough that the loop runs in C,
short enough that a prompt known to nobody costs little."""


@dataclass(slots=True, kw_only=True)
class _Holder:
    """What is known of one worker's cache."""

    bit: int
    epoch: EngineEpoch
    blocks_max: int
    sequence: int = 0
    announced_sequence: int = 0
    """What its last status said; a batch that is still missing at the next status is lost."""
    blocks: dict[BlockHash, None] = field(default_factory=dict)
    """In the order in which they were stored."""
    awaiting: bool = False
    waiting: deque[KvEventBatch] = field(default_factory=deque)


class PrefixIndex:
    """Block hash to holders, the holders as bits of one integer.

    A hash stands for its whole prefix, so a worker's overlap is the number of leading hashes whose
    integers all have its bit: one dictionary look-up and one AND per block, until no bit is left.
    Blocks evicted from the middle of a prefix end the overlap there, exactly as they do in the engine.
    """

    def __init__(self, *, slack_frac: float, batches_waiting_max: int) -> None:
        self._slack_frac = slack_frac
        self._batches_waiting_max = batches_waiting_max
        self._holders: dict[WorkerId, _Holder] = {}
        self._owners: list[WorkerId | None] = []
        """By slot: worker whose bit it is."""
        self._masks: dict[BlockHash, int] = {}

    def __len__(self) -> int:
        """Distinct blocks held by anybody."""
        return len(self._masks)

    def overlaps(self, hashes: Sequence[BlockHash]) -> dict[WorkerId, int]:
        """Count the leading blocks of a prompt that each worker holds; absent workers hold none.

        Args:
            hashes: shape [full blocks of the prompt], a chain as `hash_blocks` gives it.
        """
        held = self._holders_by_depth(hashes)
        found: dict[WorkerId, int] = {}
        depth = 0
        while depth < len(held):
            mask = held[depth]
            end = _end_of_run(held, depth)
            leaving = mask & ~(held[end] if end < len(held) else 0)
            for worker_id in self._workers_of(leaving):
                found[worker_id] = end
            depth = end
        return found

    def _holders_by_depth(self, hashes: Sequence[BlockHash]) -> list[int]:
        """Who holds all blocks up to each depth, down to the last depth held by anybody."""
        held: list[int] = []
        alive = -1
        for start in range(0, len(hashes), LOOK_UP_BLOCKS):
            found = map(self._masks.get, hashes[start : start + LOOK_UP_BLOCKS], repeat(0))
            held += islice(accumulate(found, and_, initial=alive), 1, None)
            alive = held[-1]
            if not alive:
                del held[held.index(0) :]
                break
        return held

    def holds_blocks(self, worker_id: WorkerId) -> int:
        """Blocks that the index holds of a worker."""
        holder = self._holders.get(worker_id)
        return len(holder.blocks) if holder else 0

    def blocks_of(self, worker_id: WorkerId) -> frozenset[BlockHash]:
        """Blocks that a worker is known to hold; none when it is unknown."""
        holder = self._holders.get(worker_id)
        return frozenset() if holder is None else frozenset(holder.blocks)

    def blocks_max(self) -> int:
        """Most blocks the index can hold of the present workers together."""
        return sum(holder.blocks_max for holder in self._holders.values())

    def awaiting(self) -> tuple[WorkerId, ...]:
        """Workers whose snapshot is needed, ordered."""
        return tuple(sorted(w for w, holder in self._holders.items() if holder.awaiting))

    def fold_worker(
        self, worker_id: WorkerId, *, epoch: EngineEpoch, kv_blocks: int, kv_sequence: int
    ) -> Applied | GapFound:
        """Take what a status says of a worker's cache; it alone says which life of the engine is present.

        Events of another life are either late or early: late ones are void, early ones show as a gap.

        A status may overtake batches on their way, so one that is ahead of them is not a gap yet; it is
        when the next status comes and the batches still have not.
        """
        holder = self._holders.get(worker_id)
        blocks_max = kv_blocks + int(kv_blocks * self._slack_frac)
        if holder is None:
            bit = self._take_slot(worker_id)
            holder = _Holder(bit=bit, epoch=epoch, blocks_max=blocks_max)
            self._holders[worker_id] = holder
            return self._begin(worker_id, holder, kv_sequence)
        holder.blocks_max = blocks_max
        if epoch != holder.epoch:
            self._renew(holder, epoch)
            return self._begin(worker_id, holder, kv_sequence)
        missing = holder.announced_sequence > holder.sequence and not holder.awaiting
        expected = holder.sequence + 1
        holder.announced_sequence = kv_sequence
        if missing:
            holder.awaiting = True
            return GapFound(worker_id=worker_id, expected=expected, got=kv_sequence)
        return Applied(worker_id=worker_id, trimmed_blocks=self._trim(holder))

    def fold(self, batch: KvEventBatch) -> Folded:
        """Take a batch of events."""
        worker_id = batch.worker_id
        holder = self._holders.get(worker_id)
        if holder is None:
            return UnknownWorker(worker_id=worker_id)
        if batch.epoch != holder.epoch:
            return StaleEpoch(worker_id=worker_id)
        if holder.awaiting:
            return self._keep(worker_id, holder, batch)
        expected = holder.sequence + 1
        if batch.sequence < expected:
            return StaleEpoch(worker_id=worker_id)
        if batch.sequence > expected:
            holder.awaiting = True
            self._keep(worker_id, holder, batch)
            return GapFound(worker_id=worker_id, expected=expected, got=batch.sequence)
        return Applied(worker_id=worker_id, trimmed_blocks=self._apply(holder, batch))

    def fold_snapshot(self, snapshot: KvSnapshot) -> Folded:
        """Replace a worker's blocks, then take the batches that waited behind the snapshot."""
        worker_id = snapshot.worker_id
        holder = self._holders.get(worker_id)
        if holder is None:
            return UnknownWorker(worker_id=worker_id)
        if snapshot.epoch != holder.epoch or snapshot.sequence < holder.sequence:
            return StaleEpoch(worker_id=worker_id)
        self._clear(holder)
        holder.sequence = snapshot.sequence
        for stored in snapshot.stored:
            self._store(holder, stored.hashes)
        trimmed = self._trim(holder)
        holder.awaiting = False
        waiting, holder.waiting = holder.waiting, deque()
        for batch in waiting:
            if batch.sequence <= holder.sequence:
                continue
            if batch.sequence > holder.sequence + 1:
                holder.awaiting = True
                holder.waiting.extend(b for b in waiting if b.sequence >= batch.sequence)
                return GapFound(worker_id=worker_id, expected=holder.sequence + 1, got=batch.sequence)
            trimmed += self._apply(holder, batch)
        return Applied(worker_id=worker_id, trimmed_blocks=trimmed)

    def distrust(self, worker_id: WorkerId) -> GapFound | UnknownWorker:
        """Drop what is known of a worker because it proved wrong, and await a snapshot."""
        holder = self._holders.get(worker_id)
        if holder is None:
            return UnknownWorker(worker_id=worker_id)
        self._clear(holder)
        holder.awaiting = True
        return GapFound(worker_id=worker_id, expected=holder.sequence + 1, got=holder.sequence)

    def forget(self, worker_id: WorkerId) -> bool:
        """Drop a worker and all it holds; False when it was not known."""
        holder = self._holders.pop(worker_id, None)
        if holder is None:
            return False
        self._clear(holder)
        self._owners[holder.bit.bit_length() - 1] = None
        return True

    def _begin(self, worker_id: WorkerId, holder: _Holder, kv_sequence: int) -> Applied | GapFound:
        """Start following an engine's life: from its beginning, or from a snapshot."""
        holder.announced_sequence = kv_sequence
        if kv_sequence == 0:
            return Applied(worker_id=worker_id)
        holder.awaiting = True
        return GapFound(worker_id=worker_id, expected=1, got=kv_sequence)

    def _renew(self, holder: _Holder, epoch: EngineEpoch) -> None:
        """An engine started anew: what the old one held is gone."""
        self._clear(holder)
        holder.epoch = epoch
        holder.sequence = holder.announced_sequence = 0
        holder.awaiting = False
        holder.waiting.clear()

    def _keep(self, worker_id: WorkerId, holder: _Holder, batch: KvEventBatch) -> Waiting:
        holder.waiting.append(batch)
        dropped = 0
        while len(holder.waiting) > self._batches_waiting_max:
            holder.waiting.popleft()
            dropped += 1
        return Waiting(worker_id=worker_id, dropped_count=dropped)

    def _apply(self, holder: _Holder, batch: KvEventBatch) -> int:
        for event in batch.events:
            self._change(holder, event)
        holder.sequence = batch.sequence
        return self._trim(holder)

    def _change(self, holder: _Holder, event: KvEvent) -> None:
        match event:
            case BlocksStored():
                self._store(holder, event.hashes)
            case BlocksRemoved():
                self._remove(holder, event.hashes)
            case BlocksCleared():
                self._clear(holder)
            case _:
                assert_never(event)

    def _store(self, holder: _Holder, hashes: Iterable[BlockHash]) -> None:
        masks, bit = self._masks, holder.bit
        for block_hash in hashes:
            holder.blocks[block_hash] = None
            masks[block_hash] = masks.get(block_hash, 0) | bit

    def _remove(self, holder: _Holder, hashes: Iterable[BlockHash]) -> None:
        masks, bit, blocks = self._masks, holder.bit, holder.blocks
        for block_hash in hashes:
            if block_hash not in blocks:
                continue
            del blocks[block_hash]
            rest = masks[block_hash] & ~bit
            if rest:
                masks[block_hash] = rest
            else:
                del masks[block_hash]

    def _clear(self, holder: _Holder) -> None:
        self._remove(holder, tuple(holder.blocks))

    def _trim(self, holder: _Holder) -> int:
        """Hold the bound: drop the oldest blocks beyond it, and say how many."""
        excess = len(holder.blocks) - holder.blocks_max
        if excess <= 0:
            return 0
        oldest = [block for block, _ in zip(holder.blocks, range(excess), strict=False)]
        self._remove(holder, oldest)
        return excess

    def _take_slot(self, worker_id: WorkerId) -> int:
        try:
            slot = self._owners.index(None)
            self._owners[slot] = worker_id
        except ValueError:
            slot = len(self._owners)
            self._owners.append(worker_id)
        return 1 << slot

    def _workers_of(self, mask: int) -> Iterable[WorkerId]:
        while mask:
            low = mask & -mask
            owner = self._owners[low.bit_length() - 1]
            if owner is not None:
                yield owner
            mask ^= low


def _end_of_run(held: Sequence[int], start: int) -> int:
    """Depth at which the set of holders first differs from that at `start`.

    Sets only shrink with depth, so equal ends mean equal all between: gallop, then halve.
    """
    mask, low, step = held[start], start, 1
    while low + step < len(held) and held[low + step] == mask:
        low += step
        step *= 2
    high = min(low + step, len(held))
    while high - low > 1:
        middle = (low + high) // 2
        if held[middle] == mask:
            low = middle
        else:
            high = middle
    return high
