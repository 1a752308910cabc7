"""What this worker's cache holds, folded from its engine's KV events.

Comes in: KV events in the engine's order. Goes out: numbered batches for the bus, snapshots for
routers that missed some, and membership for the queue's ordering.
Invariant: snapshot number `n` equals the fold of batches 1 to `n`.
"""

from collections.abc import Iterator

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


class Holdings:
    """Mirror of one engine's prefix cache."""

    def __init__(self, worker_id: WorkerId) -> None:
        self._worker_id = worker_id
        self._epoch = EngineEpoch("")
        self._parents: dict[BlockHash, BlockHash] = {}
        self._sequence = 0

    @property
    def sequence(self) -> int:
        """Number of the last batch."""
        return self._sequence

    def __contains__(self, block_hash: BlockHash) -> bool:
        return block_hash in self._parents

    def __len__(self) -> int:
        return len(self._parents)

    def belong_to(self, epoch: EngineEpoch) -> None:
        """Learn which life of the engine this is; known once the engine has started."""
        self._epoch = epoch

    def fold(self, events: tuple[KvEvent, ...]) -> KvEventBatch:
        """Apply events and number them."""
        for event in events:
            match event:
                case BlocksStored(parent=parent, hashes=hashes):
                    for block_hash in hashes:
                        self._parents[block_hash] = parent
                        parent = block_hash
                case BlocksRemoved(hashes=hashes):
                    for block_hash in hashes:
                        self._parents.pop(block_hash, None)
                case BlocksCleared():
                    self._parents.clear()
        self._sequence += 1
        return KvEventBatch(
            worker_id=self._worker_id, epoch=self._epoch, sequence=self._sequence, events=events
        )

    def snapshot(self) -> KvSnapshot:
        """Everything held now, as runs of blocks that follow each other, in order of arrival."""
        return KvSnapshot(
            worker_id=self._worker_id,
            epoch=self._epoch,
            sequence=self._sequence,
            stored=tuple(self._runs()),
        )

    def _runs(self) -> Iterator[BlocksStored]:
        run: list[BlockHash] = []
        before_run = BlockHash(0)
        for block_hash, parent in self._parents.items():
            if run and parent != run[-1]:
                yield BlocksStored(parent=before_run, hashes=tuple(run))
                run = []
            if not run:
                before_run = parent
            run.append(block_hash)
        if run:
            yield BlocksStored(parent=before_run, hashes=tuple(run))
