"""KV blocks: a chain of hashes over full blocks of tokens, and the events that say who holds which.

Comes in: token ids and the things that make equal tokens mean different KV (adapter, cache salt).
Goes out: one 64-bit hash per full block, and KV events in terms of these hashes.
Invariant: equal hash = equal prefix, on every machine and in every process.
Not here: who holds what (`services.router`), an engine's own hashes (`services.engine`).
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NewType

from services.domain.ids import EngineEpoch, WorkerId

BlockHash = NewType("BlockHash", int)
"""Unsigned 64-bit hash of a block and of all blocks before it."""

_HASH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheScope:
    """What separates caches of equal tokens: KV is shared only inside one scope."""

    model: str
    adapter: str = ""
    """LoRA adapter name; empty for the plain model."""
    salt: str = ""
    """Secret of a tenant or session; empty when the cache is shared by all."""

    def root(self) -> BlockHash:
        """Hash that stands before the first block of this scope."""
        parts = (self.model, self.adapter, self.salt)
        text = b"".join(len(part := p.encode()).to_bytes(4, "little") + part for p in parts)
        return _digest(text)


def chain(parent: BlockHash, block_token_ids: Sequence[int]) -> BlockHash:
    """Hash one full block behind its parent.

    Args:
        parent: hash of the block before, or the scope's root.
        block_token_ids: shape [block_size_tokens], each in [0, 2**32).
    """
    tokens = array("I", block_token_ids)
    return _digest(parent.to_bytes(_HASH_BYTES, "little") + tokens.tobytes())


def hash_blocks(
    token_ids: Sequence[int], *, block_size_tokens: int, scope: CacheScope
) -> tuple[BlockHash, ...]:
    """Hash every full block of a prompt.

    Args:
        token_ids: shape [prompt_tokens], each in [0, 2**32).
        block_size_tokens: tokens per block, > 0.
        scope: cache scope of the prompt.

    Returns:
        Shape [prompt_tokens // block_size_tokens], in order of the prompt.

    Raises:
        ValueError: if block_size_tokens is not positive.
    """
    if block_size_tokens <= 0:
        raise ValueError(f"block_size_tokens must be positive, got {block_size_tokens}")
    return tuple(_walk(array("I", token_ids), block_size_tokens, scope.root()))


def _walk(tokens: "array[int]", block_size_tokens: int, root: BlockHash) -> Iterator[BlockHash]:
    raw = memoryview(tokens.tobytes())
    stride = block_size_tokens * tokens.itemsize
    parent = root
    for start in range(0, len(raw) - stride + 1, stride):
        parent = _digest(parent.to_bytes(_HASH_BYTES, "little") + raw[start : start + stride])
        yield parent


def _digest(data: bytes) -> BlockHash:
    return BlockHash(int.from_bytes(hashlib.blake2b(data, digest_size=_HASH_BYTES).digest(), "little"))


def blocks_for(tokens: int, block_size_tokens: int) -> int:
    """Count the blocks that hold this many tokens, the last one perhaps partly filled."""
    return -(-tokens // block_size_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksStored:
    """Consecutive blocks became readable in a worker's cache."""

    parent: BlockHash
    """Hash of the block before the first one, or the scope's root."""
    hashes: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksRemoved:
    """Blocks were evicted from a worker's cache."""

    hashes: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksCleared:
    """A worker's whole cache was dropped."""


KvEvent = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(frozen=True, slots=True, kw_only=True)
class KvEventBatch:
    """KV events of one worker, numbered so that a reader notices a gap or a restart."""

    worker_id: WorkerId
    epoch: EngineEpoch
    sequence: int
    """1 for the first batch of an epoch, then one more each time."""
    events: tuple[KvEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSnapshot:
    """Everything a worker's cache holds after the batch numbered `sequence`."""

    worker_id: WorkerId
    epoch: EngineEpoch
    sequence: int
    """0 when no batch was sent yet."""
    stored: tuple[BlocksStored, ...]
