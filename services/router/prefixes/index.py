"""Who holds which KV blocks: a prefix index kept from workers' KV events.

Comes in: numbered batches and snapshots, and each worker's capacity. Goes out: per worker, how many
leading blocks of a prompt it holds. Invariant: a worker's blocks are exactly what its events up to its
sequence number say, or the index has said `GapFound` and awaits a snapshot; no worker has more than its
capacity plus slack, no more than `batches_waiting_max` batches wait for a snapshot.
Not here: asking for snapshots (`services.router.feed`), judging a worker's events (`accuracy`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from services.router.prefixes.findings import Applied, Folded, GapFound, StaleEpoch, UnknownWorker, Waiting
from services.router.prefixes.radix import HeldPrefixes


@dataclass(slots=True, kw_only=True)
class _Holder:
    """What is known of one worker's cache."""

    epoch: EngineEpoch
    blocks_max: int
    sequence: int = 0
    announced_sequence: int = 0
    """What its last status said; a batch that is still missing at the next status is lost."""
    awaiting: bool = False
    waiting: deque[KvEventBatch] = field(default_factory=deque)


class PrefixIndex:
    """Follows each worker's numbered events; who holds what is kept in runs of blocks (`radix`)."""

    def __init__(self, *, slack_frac: float, batches_waiting_max: int) -> None:
        self._slack_frac = slack_frac
        self._batches_waiting_max = batches_waiting_max
        self._holders: dict[WorkerId, _Holder] = {}
        self._held = HeldPrefixes()

    def __len__(self) -> int:
        """Distinct blocks held by anybody."""
        return len(self._held)

    def overlaps(self, hashes: Sequence[BlockHash]) -> dict[WorkerId, int]:
        """Count the leading blocks of a prompt that each worker holds; absent workers hold none.

        Args:
            hashes: shape [full blocks of the prompt], a chain as `hash_blocks` gives it.
        """
        return self._held.overlaps(hashes)

    def holds_blocks(self, worker_id: WorkerId) -> int:
        """Blocks that the index holds of a worker."""
        return self._held.blocks_count(worker_id)

    def blocks_of(self, worker_id: WorkerId) -> frozenset[BlockHash]:
        """Blocks that a worker is known to hold; none when it is unknown."""
        return self._held.blocks_of(worker_id)

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
            holder = _Holder(epoch=epoch, blocks_max=blocks_max)
            self._holders[worker_id] = holder
            return self._begin(worker_id, holder, kv_sequence)
        holder.blocks_max = blocks_max
        if epoch != holder.epoch:
            self._renew(worker_id, holder, epoch)
            return self._begin(worker_id, holder, kv_sequence)
        missing = holder.announced_sequence > holder.sequence and not holder.awaiting
        expected = holder.sequence + 1
        holder.announced_sequence = kv_sequence
        if missing:
            holder.awaiting = True
            return GapFound(worker_id=worker_id, expected=expected, got=kv_sequence)
        return Applied(worker_id=worker_id, trimmed_blocks=self._trim(worker_id, holder))

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
        return Applied(worker_id=worker_id, trimmed_blocks=self._apply(worker_id, holder, batch))

    def fold_snapshot(self, snapshot: KvSnapshot) -> Folded:
        """Replace a worker's blocks, then take the batches that waited behind the snapshot."""
        worker_id = snapshot.worker_id
        holder = self._holders.get(worker_id)
        if holder is None:
            return UnknownWorker(worker_id=worker_id)
        if snapshot.epoch != holder.epoch or snapshot.sequence < holder.sequence:
            return StaleEpoch(worker_id=worker_id)
        self._held.replace(worker_id, snapshot.stored)
        holder.sequence = snapshot.sequence
        trimmed = self._trim(worker_id, holder)
        holder.awaiting = False
        waiting, holder.waiting = holder.waiting, deque()
        for batch in waiting:
            if batch.sequence <= holder.sequence:
                continue
            if batch.sequence > holder.sequence + 1:
                holder.awaiting = True
                holder.waiting.extend(b for b in waiting if b.sequence >= batch.sequence)
                return GapFound(worker_id=worker_id, expected=holder.sequence + 1, got=batch.sequence)
            trimmed += self._apply(worker_id, holder, batch)
        return Applied(worker_id=worker_id, trimmed_blocks=trimmed)

    def distrust(self, worker_id: WorkerId) -> GapFound | UnknownWorker:
        """Drop what is known of a worker because it proved wrong, and await a snapshot."""
        holder = self._holders.get(worker_id)
        if holder is None:
            return UnknownWorker(worker_id=worker_id)
        self._held.clear(worker_id)
        holder.awaiting = True
        return GapFound(worker_id=worker_id, expected=holder.sequence + 1, got=holder.sequence)

    def forget(self, worker_id: WorkerId) -> bool:
        """Drop a worker and all it holds; False when it was not known."""
        if self._holders.pop(worker_id, None) is None:
            return False
        self._held.clear(worker_id)
        return True

    def _begin(self, worker_id: WorkerId, holder: _Holder, kv_sequence: int) -> Applied | GapFound:
        """Start following an engine's life: from its beginning, or from a snapshot."""
        holder.announced_sequence = kv_sequence
        if kv_sequence == 0:
            return Applied(worker_id=worker_id)
        holder.awaiting = True
        return GapFound(worker_id=worker_id, expected=1, got=kv_sequence)

    def _renew(self, worker_id: WorkerId, holder: _Holder, epoch: EngineEpoch) -> None:
        """An engine started anew: what the old one held is gone."""
        self._held.clear(worker_id)
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

    def _apply(self, worker_id: WorkerId, holder: _Holder, batch: KvEventBatch) -> int:
        for event in batch.events:
            self._change(worker_id, event)
        holder.sequence = batch.sequence
        return self._trim(worker_id, holder)

    def _change(self, worker_id: WorkerId, event: KvEvent) -> None:
        match event:
            case BlocksStored():
                self._held.store(worker_id, event)
            case BlocksRemoved():
                self._held.remove(worker_id, event.hashes)
            case BlocksCleared():
                self._held.clear(worker_id)
            case _:
                assert_never(event)

    def _trim(self, worker_id: WorkerId, holder: _Holder) -> int:
        """Hold the bound: drop what is oldest beyond it, and say how many blocks."""
        excess = self._held.blocks_count(worker_id) - holder.blocks_max
        if excess <= 0:
            return 0
        self._held.drop_oldest(worker_id, excess)
        return excess
