"""Fingerprints of KV blocks: equal exactly when the blocks' bytes are, as far as chance allows."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.vllm.fingerprints import BlockFingerprints

BLOCKS, SHAPE = 6, (2, 32, 16)
"""Per layer and block: heads, tokens, keys and values."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


def caches(dtype: torch.dtype, *, layers: int = 3, seed: int = 1) -> list[torch.Tensor]:
    """Random caches of some layers."""
    draw = torch.Generator().manual_seed(seed)
    words = [torch.randint(0, 256, (BLOCKS, *SHAPE, dtype.itemsize), generator=draw) for _ in range(layers)]
    return [w.to(torch.uint8).view(dtype).reshape(BLOCKS, *SHAPE) for w in words]


def prints(tensors: list[torch.Tensor], blocks: list[int], *, pages: int = 1) -> list[int]:
    """Fingerprint blocks."""
    return BlockFingerprints(tensors, pages_per_block=pages).of(blocks)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_blocks_have_equal_fingerprints(dtype: torch.dtype) -> None:
    """Whatever the dtype, whoever asks, alone or together, and wherever in the cache the block lies."""
    tensors = caches(dtype)
    together = prints(tensors, [0, 3, 5])
    assert together == [prints(tensors, [block])[0] for block in (0, 3, 5)]
    assert all(0 <= number < 2**64 for number in together)
    moved = [tensor[[5, 4, 3, 2, 1, 0]] for tensor in tensors]
    assert prints(moved, [5, 2, 0]) == together


@settings(max_examples=60, deadline=None)
@given(
    layer=st.integers(0, 2),
    byte=st.integers(0, 2 * 32 * 16 * 4 - 1),
    flip=st.integers(1, 255),
)
def test_one_changed_byte_always_shows(layer: int, byte: int, flip: int) -> None:
    """In any layer, at any place, by any bit; and only in its own block."""
    tensors = caches(torch.float32)
    before = prints(tensors, [1, 2])
    tensors[layer][1].view(-1).view(torch.uint8)[byte] ^= flip
    after = prints(tensors, [1, 2])
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_what_was_mixed_up_shows() -> None:
    """Two tokens, two heads or two layers exchanged; a block of another place; a block that never came."""
    found = {"plain": prints(caches(torch.float32), [1])[0]}
    changed = caches(torch.float32)
    changed[0][1, :, [3, 4]] = changed[0][1, :, [4, 3]]
    found["tokens"] = prints(changed, [1])[0]
    changed = caches(torch.float32)
    changed[0][1, [0, 1]] = changed[0][1, [1, 0]]
    found["heads"] = prints(changed, [1])[0]
    found["layers"] = prints([*reversed(caches(torch.float32))], [1])[0]
    found["other block"] = prints(caches(torch.float32), [2])[0]
    changed = caches(torch.float32)
    changed[2][1] = 0
    found["a layer that never came"] = prints(changed, [1])[0]
    for one, other in combinations(found, 2):
        assert found[one] != found[other], (one, other)


def test_a_block_of_several_pages_has_one_fingerprint() -> None:
    """Where a kernel's pages are smaller than the scheduler's blocks, all pages of a block count."""
    tensors = caches(torch.float32)
    before = prints(tensors, [0, 1, 2], pages=2)
    assert len(set(before)) == 3
    tensors[0][3, 0, 0, 0] += 1.0  # the second page of block 1
    after = prints(tensors, [0, 1, 2], pages=2)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_the_order_of_memory_does_not_matter() -> None:
    """A cache whose blocks lie in memory in another order of axes has the fingerprints of its values."""
    tensors = caches(torch.float32)
    strided = [t.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3) for t in tensors]
    assert not strided[0].is_contiguous()
    assert prints(strided, [0, 4]) == prints(tensors, [0, 4])
