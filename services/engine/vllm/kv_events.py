"""KV events of vLLM, told again in terms of our own block hashes.

Comes in: msgpack batches of vLLM's ZMQ publisher (0.32: maps tagged by `type`; older: arrays).
Goes out: `domain.blocks` events. Invariant: the ledger holds exactly the hashes that the engine's cache
holds, so its size is bounded by the cache; a block whose ancestry is unknown is never reported.
vLLM's own hashes are opaque and differ between processes; ours are computed from the token ids, the LoRA
name and the cache salt, chained through the parent. Not here: sockets (`subscription`).
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import msgspec

from services.domain.blocks import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheScope,
    KvEvent,
    chain,
)

EngineHash: TypeAlias = int | bytes


class Stored(msgspec.Struct, frozen=True, kw_only=True, tag="BlockStored"):
    """Full blocks entered the cache, each the child of the one before."""

    block_hashes: list[EngineHash]
    parent_block_hash: EngineHash | None
    token_ids: list[int]
    """Shape [len(block_hashes) * block_size]."""
    block_size: int
    lora_name: str | None = None
    extra_keys: list[list[object] | None] | None = None
    """Per block: LoRA name, then pairs of multimodal inputs, then (first block only) the cache salt."""
    group_idx: int | None = None


class Removed(msgspec.Struct, frozen=True, kw_only=True, tag="BlockRemoved"):
    """Blocks left the cache."""

    block_hashes: list[EngineHash]
    group_idx: int | None = None


class Cleared(msgspec.Struct, frozen=True, kw_only=True, tag="AllBlocksCleared"):
    """The whole cache was dropped."""


CacheEvent: TypeAlias = Stored | Removed | Cleared


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[CacheEvent]


class _RawBatch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[list[object]]


_POSITIONS: dict[object, tuple[str, ...]] = {
    "BlockStored": (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}
"""Order of fields in the array encoding (vLLM up to 0.11; trailing fields came later)."""

_decode_maps = msgspec.msgpack.Decoder(_Batch).decode
_decode_arrays = msgspec.msgpack.Decoder(_RawBatch).decode


def parse_batch(payload: bytes) -> list[CacheEvent]:
    """Read one published batch in either encoding.

    Raises:
        ValueError: it is neither.
    """
    try:
        return _decode_maps(payload).events
    except msgspec.ValidationError as failure:
        try:
            raw = _decode_arrays(payload)
        except msgspec.ValidationError:
            raise failure from None
    return [_from_array(event) for event in raw.events]


def _from_array(event: list[object]) -> CacheEvent:
    names = _POSITIONS.get(event[0] if event else None)
    if names is None:
        raise ValueError(f"unknown KV event {event[:1]!r}")
    named = dict(zip(names, event[1:], strict=False))
    return msgspec.convert({"type": event[0], **named}, Stored | Removed | Cleared)


class KvLedger:
    """Maps the engine's hashes to ours and counts physical copies.

    Two requests that compute the same block at the same time leave two copies in the cache, and the
    engine reports each coming and going: a block is gone for us when its last copy is.
    """

    def __init__(self, *, model: str, block_size_tokens: int) -> None:
        self._model = model
        self._block_size_tokens = block_size_tokens
        self._ours: dict[EngineHash, BlockHash] = {}
        self._copies: Counter[EngineHash] = Counter()
        self.unknown_parent_count = 0
        """Blocks that were not reported because their parent is unknown (after a lost batch)."""

    def __len__(self) -> int:
        return len(self._ours)

    def fold(self, events: Sequence[CacheEvent]) -> tuple[KvEvent, ...]:
        """Take one batch in; say what it means in our hashes."""
        told: list[KvEvent] = []
        for event in events:
            match event:
                case Stored():
                    told += self._store(event)
                case Removed():
                    told += self._remove(event)
                case Cleared():
                    told += self.forget()
        return tuple(told)

    def forget(self) -> tuple[KvEvent, ...]:
        """Drop everything, because the cache was cleared or events were lost for good."""
        self._ours.clear()
        self._copies.clear()
        return (BlocksCleared(),)

    def _store(self, event: Stored) -> list[KvEvent]:
        if event.group_idx not in (None, 0):
            return []  # hybrid models cache one prefix in several groups; the first one is the full one
        if event.block_size != self._block_size_tokens or _has_multimodal_keys(event):
            return []
        parent = self._parent_of(event)
        if parent is None:
            self.unknown_parent_count += len(event.block_hashes)
            return []
        chained = [parent]
        for index in range(len(event.block_hashes)):
            start = index * event.block_size
            chained.append(chain(chained[-1], event.token_ids[start : start + event.block_size]))
        told: list[KvEvent] = []
        fresh: list[BlockHash] = []
        fresh_parent = parent
        for theirs, (before, ours) in zip(event.block_hashes, pairwise(chained), strict=True):
            self._copies[theirs] += 1
            if theirs in self._ours:
                continue
            self._ours[theirs] = ours
            if fresh and fresh[-1] != before:
                told.append(BlocksStored(parent=fresh_parent, hashes=tuple(fresh)))
                fresh = []
            if not fresh:
                fresh_parent = before
            fresh.append(ours)
        if fresh:
            told.append(BlocksStored(parent=fresh_parent, hashes=tuple(fresh)))
        return told

    def _parent_of(self, event: Stored) -> BlockHash | None:
        if event.parent_block_hash is not None:
            return self._ours.get(event.parent_block_hash)
        keys = (event.extra_keys or [None])[0] or []
        salts = [key for key in keys[1 if event.lora_name else 0 :] if isinstance(key, str)]
        scope = CacheScope(model=self._model, adapter=event.lora_name or "", salt=salts[0] if salts else "")
        return scope.root()

    def _remove(self, event: Removed) -> list[KvEvent]:
        if event.group_idx not in (None, 0):
            return []
        gone: list[BlockHash] = []
        for theirs in event.block_hashes:
            self._copies[theirs] -= 1
            if self._copies[theirs] > 0:
                continue
            del self._copies[theirs]
            ours = self._ours.pop(theirs, None)
            if ours is not None:
                gone.append(ours)
        return [BlocksRemoved(hashes=tuple(gone))] if gone else []


def _has_multimodal_keys(event: Stored) -> bool:
    return any(isinstance(key, list) for keys in event.extra_keys or () for key in keys or ())
