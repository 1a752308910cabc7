"""KV events and snapshots on the wire.

Invariant: a batch comes back equal; a snapshot comes back with the same blocks behind the same parents in
the same order, runs longer than a chunk being cut in two. No chunk is larger than its bound.
"""

from collections.abc import AsyncIterator, Iterator
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
from services.wire.codec.fields import fault, identity, parse, unknown_choice, writing
from services.wire.generated.baton.internal.v1 import worker_pb2 as pb

CHUNK_HASHES_MAX = 8192
"""Most hashes (parents counted too) in one chunk of a snapshot: at most about 200 KB."""


def event_to_proto(event: KvEvent) -> pb.KvEvent:
    """Write one KV event."""
    match event:
        case BlocksStored():
            return pb.KvEvent(stored=pb.BlocksStored(parent=event.parent, hashes=event.hashes))
        case BlocksRemoved():
            return pb.KvEvent(removed=pb.BlocksRemoved(hashes=event.hashes))
        case BlocksCleared():
            return pb.KvEvent(cleared=pb.BlocksCleared())
        case _:
            assert_never(event)


def event_from_proto(message: pb.KvEvent) -> KvEvent:
    """Read one KV event.

    Raises:
        WireError: it is of an unknown kind.
    """
    match message.WhichOneof("event"):
        case "stored":
            return _stored(message.stored)
        case "removed":
            return BlocksRemoved(hashes=tuple(map(BlockHash, message.removed.hashes)))
        case "cleared":
            return BlocksCleared()
        case None:
            raise unknown_choice("KvEvent.event")
        case kind:
            assert_never(kind)


def encode_kv_batch(batch: KvEventBatch) -> bytes:
    """Write a batch of KV events.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("KvEventBatch"):
        message = pb.KvEventBatch(
            worker_id=batch.worker_id,
            epoch=batch.epoch,
            sequence=batch.sequence,
            events=[event_to_proto(e) for e in batch.events],
        )
        return message.SerializeToString()


def decode_kv_batch(data: bytes) -> KvEventBatch:
    """Read a batch of KV events.

    Raises:
        WireError: the bytes are no such message, or a field is missing or malformed.
    """
    message = parse(pb.KvEventBatch, data)
    return KvEventBatch(
        worker_id=WorkerId(identity("KvEventBatch.worker_id", message.worker_id)),
        epoch=EngineEpoch(identity("KvEventBatch.epoch", message.epoch)),
        sequence=message.sequence,
        events=tuple(map(event_from_proto, message.events)),
    )


def encode_snapshot(snapshot: KvSnapshot) -> Iterator[bytes]:
    """Write a snapshot as chunks; the first, which may be empty, says whose and when.

    Raises:
        WireError: while iterating: a value does not fit its field.
    """
    with writing("KvSnapshotChunk"):
        chunk = pb.KvSnapshotChunk(
            worker_id=snapshot.worker_id, epoch=snapshot.epoch, sequence=snapshot.sequence
        )
        room = CHUNK_HASHES_MAX
        for stored in _cut(snapshot.stored):
            needed = len(stored.hashes) + 1
            if needed > room:
                yield chunk.SerializeToString()
                chunk, room = pb.KvSnapshotChunk(), CHUNK_HASHES_MAX
            chunk.stored.add(parent=stored.parent, hashes=stored.hashes)
            room -= needed
        yield chunk.SerializeToString()


async def decode_snapshot(chunks: AsyncIterator[bytes], *, blocks_max: int) -> KvSnapshot:
    """Read a snapshot from its chunks.

    Args:
        chunks: in the order in which they were written.
        blocks_max: most blocks that are read; a cache is never larger than its worker says.

    Raises:
        WireError: there is no first chunk, a chunk is malformed, or there are too many blocks.
    """
    first: pb.KvSnapshotChunk | None = None
    stored: list[BlocksStored] = []
    block_count = 0
    async for data in chunks:
        chunk = parse(pb.KvSnapshotChunk, data)
        first = first or chunk
        runs = [_stored(s) for s in chunk.stored]
        block_count += sum(len(run.hashes) for run in runs)
        if block_count > blocks_max:
            raise fault("KvSnapshotChunk.stored", f"brings more than {blocks_max} blocks")
        stored += runs
    if first is None:
        raise fault("KvSnapshotChunk", "is missing")
    return KvSnapshot(
        worker_id=WorkerId(identity("KvSnapshotChunk.worker_id", first.worker_id)),
        epoch=EngineEpoch(identity("KvSnapshotChunk.epoch", first.epoch)),
        sequence=first.sequence,
        stored=tuple(stored),
    )


def _stored(message: pb.BlocksStored) -> BlocksStored:
    return BlocksStored(parent=BlockHash(message.parent), hashes=tuple(map(BlockHash, message.hashes)))


def _cut(runs: tuple[BlocksStored, ...]) -> Iterator[BlocksStored]:
    """Cut runs that fill more than a chunk; a later part stands behind the last block of the one before."""
    size = CHUNK_HASHES_MAX - 1
    for run in runs:
        if len(run.hashes) <= size:
            yield run
            continue
        parent = run.parent
        for start in range(0, len(run.hashes), size):
            part = run.hashes[start : start + size]
            yield BlocksStored(parent=parent, hashes=part)
            parent = part[-1]
