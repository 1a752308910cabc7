"""Fingerprints of KV blocks in an engine's own memory; runs inside the engine process.

Comes in: the cache tensors of all layers, block ids. Goes out: one unsigned 64-bit number per block.
A fingerprint is a sum of the block's 64-bit words, each multiplied by an odd weight of its own, modulo 2**64
(multilinear hashing; Carter and Wegman 1979): changing one word always shows, and changes of several words
stay unseen with a probability near 2**-64. Everything is computed on the device that holds the cache; only
the numbers are copied to the host. Invariant: equal bytes give equal fingerprints in every process.
Run on the CPU; on a GPU the same operations (gather, multiply, add) run on the current stream, behind the
kernels that wrote the blocks, and the copy of the numbers waits for them (written for it, not run there).
The whole block is read, also where its tokens are still to come: the transfer moves whole blocks, and after
the prompt nobody writes to them. So the order in which an attention kernel packs tokens does not matter.
Not here: which blocks, and what becomes of a difference (`checking`, `connector`).
"""

from collections.abc import Iterable, Sequence

import torch

_WORD_BYTES = 8
_WORD = 2**64
_GOLDEN = 0x9E3779B97F4A7C15 - _WORD
_STIR = 0xBF58476D1CE4E5B9 - _WORD
"""Odd constants of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers."""


class BlockFingerprints:
    """Fingerprints the blocks of one device's cache."""

    def __init__(self, caches: Iterable[torch.Tensor], *, pages_per_block: int) -> None:
        """Take the caches in.

        Args:
            caches: one tensor per layer, pages along the first dimension; the same order in every engine.
            pages_per_block: pages of a cache tensor that make up one block of the scheduler.
        """
        self._caches = tuple(caches)
        self._pages_per_block = pages_per_block
        self._weights: dict[int, torch.Tensor] = {}

    def of(self, block_ids: Sequence[int]) -> list[int]:
        """Fingerprint blocks, each on its own.

        Args:
            block_ids: shape [blocks].

        Returns:
            Numbers in [0, 2**64), shape [blocks].
        """
        pages = [
            block * self._pages_per_block + k for block in block_ids for k in range(self._pages_per_block)
        ]
        total = index = None
        for cache in self._caches:
            if index is None or index.device != cache.device:
                index = torch.tensor(pages, dtype=torch.int64, device=cache.device)
            rows = cache.index_select(0, index).reshape(len(block_ids), -1)
            words = rows.view(torch.uint8).view(torch.int64)
            layer = (words * self._weights_for(words)).sum(dim=1)
            total = layer if total is None else total * _GOLDEN + layer
        return [] if total is None else [int(number) % _WORD for number in total.tolist()]

    def _weights_for(self, words: torch.Tensor) -> torch.Tensor:
        count = words.shape[1]
        if count not in self._weights:
            place = torch.arange(1, count + 1, dtype=torch.int64)
            weights = place * _GOLDEN
            weights = (weights ^ (weights >> 32)) * _STIR
            self._weights[count] = ((weights ^ (weights >> 29)) | 1).to(words.device)
        return self._weights[count]
