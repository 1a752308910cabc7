"""A run of consecutive blocks: who holds how much of it, and how far a prompt agrees with it.

Comes in: runs, prompts. Goes out: counts of blocks. Invariant: equal hash means equal prefix, so two chains
that agree at a block agree at all before it, and halving finds where they part.
Not here: which run a block is in, how runs change (`radix`).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.domain.blocks import BlockHash
from services.domain.ids import WorkerId


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive blocks, and who holds how many of them from the first on."""

    number: int
    blocks: "array[int]"
    """Shape [blocks], hashes; at least one while the run exists."""
    held_blocks: dict[WorkerId, int] = field(default_factory=dict)
    """Each in [1, len(blocks)]; the greatest is len(blocks)."""
    full: int = 0
    """Bits of the workers that hold all of it."""

    def held_by_all(self) -> bool:
        """Say whether each holder holds all of it."""
        return self.full.bit_count() == len(self.held_blocks)


def leading(run: Run, length: int) -> dict[WorkerId, int]:
    """Say how many of the first `length` blocks of a run each holder has."""
    if length == len(run.blocks):
        return run.held_blocks.copy()
    if run.held_by_all():
        return dict.fromkeys(run.held_blocks, length)
    return {w: min(length, held) for w, held in run.held_blocks.items()}


def lengthen(found: dict[WorkerId, int], run: Run, depth: int, length: int) -> bool:
    """Lengthen the overlaps that reach `depth` by what their workers hold of the next run.

    Returns:
        Whether there were any.
    """
    lengthened = False
    for worker_id, held in run.held_blocks.items():
        if found.get(worker_id) == depth:
            found[worker_id] = depth + min(held, length)
            lengthened = True
    return lengthened


def position(run: Run, block_hash: BlockHash, worker_id: WorkerId) -> int:
    """Find a block in its run, first where the worker's part ends: that is where workers store."""
    held = run.held_blocks.get(worker_id, 0)
    if held and run.blocks[held - 1] == block_hash:
        return held - 1
    if held < len(run.blocks) and run.blocks[held] == block_hash:
        return held
    return run.blocks.index(block_hash)


def matching(blocks: "array[int]", offset: int, hashes: Sequence[BlockHash], start: int) -> int:
    """Count how far a run and a chain agree, given that they agree at `offset` and `start`."""
    most = min(len(blocks) - offset, len(hashes) - start)
    if blocks[offset + most - 1] == hashes[start + most - 1]:
        return most
    agree, differ = 1, most
    while differ - agree > 1:
        middle = (agree + differ) // 2
        if blocks[offset + middle - 1] == hashes[start + middle - 1]:
            agree = middle
        else:
            differ = middle
    return agree
