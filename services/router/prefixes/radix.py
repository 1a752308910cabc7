"""Which worker holds which leading blocks: runs of consecutive blocks, each kept once for all its holders.

Comes in: blocks that a worker stored, in the order of their chain, and blocks that it removed, in any order.
Goes out: per worker, how many leading blocks of a prompt it holds. Invariant: every block that somebody holds
is in exactly one run, a block that nobody holds is in none; within a run each holder has a leading part.
Equal hash means equal prefix, so two chains that agree at a block agree at all before it: a run is compared
with a prompt at its end, else by halving. A look-up costs one step per branch on the prompt's way and the
logarithm of the last run, plus one entry per worker in its answer. Blocks that never follow each other in a
prompt, told as consecutive, make overlaps wrong, never the bound. Not here: gaps and engine lives (`index`).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.domain.blocks import BlockHash, BlocksStored
from services.domain.ids import WorkerId
from services.router.prefixes.runs import Run, leading, lengthen, matching, position


@dataclass(slots=True)
class _Share:
    """What one worker holds."""

    bit: int
    """Its own among all that hold anything."""
    blocks_count: int = 0
    runs: dict[int, None] = field(default_factory=dict)
    """Numbers of its runs, the oldest first."""


class HeldPrefixes:
    """Block hash to run, run to holders.

    The table of blocks maps integers to integers only, so the garbage collector never walks it.
    """

    def __init__(self) -> None:
        self._run_of: dict[BlockHash, int] = {}
        self._runs: dict[int, Run] = {}
        self._shares: dict[WorkerId, _Share] = {}
        self._runs_made = 0
        self._bits_free: list[int] = []

    def __len__(self) -> int:
        """Distinct blocks held by anybody."""
        return len(self._run_of)

    def runs_count(self) -> int:
        """Count the runs in which the blocks are kept."""
        return len(self._runs)

    def blocks_count(self, worker_id: WorkerId) -> int:
        """Count the blocks that a worker holds."""
        share = self._shares.get(worker_id)
        return share.blocks_count if share else 0

    def blocks_of(self, worker_id: WorkerId) -> frozenset[BlockHash]:
        """List the blocks that a worker holds; walks all of them."""
        share = self._shares.get(worker_id)
        runs = [self._runs[number] for number in share.runs] if share else []
        return frozenset(BlockHash(h) for run in runs for h in run.blocks[: run.held_blocks[worker_id]])

    def overlaps(self, hashes: Sequence[BlockHash]) -> dict[WorkerId, int]:
        """Count the leading blocks of a prompt that each worker holds; absent workers hold none.

        Args:
            hashes: shape [full blocks of the prompt], a chain as `hash_blocks` gives it.
        """
        found: dict[WorkerId, int] = {}
        depth = alive = 0
        while depth < len(hashes):
            number = self._run_of.get(hashes[depth])
            if number is None:
                break
            run = self._runs[number]
            if run.blocks[0] != hashes[depth]:
                break  # a block has one parent; whoever told of another one was wrong
            length = matching(run.blocks, 0, hashes, depth)
            if not depth:
                found, alive = leading(run, length), run.full
            elif not run.full & ~alive and run.held_by_all():
                longer = dict.fromkeys(run.held_blocks, depth + length)
                found = longer if len(longer) == len(found) else found | longer
                alive = run.full
            elif lengthen(found, run, depth, length):
                alive &= run.full
            else:
                break
            depth += length
        return found

    def store(self, worker_id: WorkerId, stored: BlocksStored) -> None:
        """Note that a worker holds consecutive blocks; those it holds already change nothing."""
        share = self._shares.get(worker_id)
        if share is None:
            bit = self._bits_free.pop() if self._bits_free else 1 << len(self._shares)
            share = self._shares[worker_id] = _Share(bit)
        hashes, before, at = stored.hashes, stored.parent, 0
        while at < len(hashes):
            number = self._run_of.get(hashes[at])
            if number is None:
                end = self._first_known(hashes, at)
                self._add(worker_id, share, before, hashes[at:end])
                length = end - at
            else:
                run = self._runs[number]
                offset = position(run, hashes[at], worker_id)
                length = matching(run.blocks, offset, hashes, at)
                self._join(worker_id, share, run, offset, length)
                if not offset:
                    self._merge(before, run)
            at += length
            before = hashes[at - 1]

    def remove(self, worker_id: WorkerId, hashes: Sequence[BlockHash]) -> None:
        """Note that a worker no longer holds some blocks; those it does not hold change nothing."""
        share = self._shares.get(worker_id)
        if share is None:
            return
        run_of, runs, at = self._run_of, self._runs, 0
        while at < len(hashes):
            block_hash, length = hashes[at], 1
            number = run_of.get(block_hash)
            held = 0 if number is None else runs[number].held_blocks.get(worker_id, 0)
            if number is not None and held:
                run = runs[number]
                if run.blocks[held - 1] == block_hash:  # the usual order: from the end to the front
                    most = min(held, len(hashes) - at)
                    while length < most and hashes[at + length] == run.blocks[held - length - 1]:
                        length += 1
                    self._shorten(worker_id, share, run, held, held - length)
                elif (offset := run.blocks.index(block_hash)) < held:
                    most = min(held - offset, len(hashes) - at)
                    while length < most and hashes[at + length] == run.blocks[offset + length]:
                        length += 1
                    if offset + length < held:
                        run = self._split(run, offset + length)[0]
                    self._shorten(worker_id, share, run, offset + length, offset)
            at += length

    def clear(self, worker_id: WorkerId) -> None:
        """Note that a worker holds nothing."""
        share = self._shares.pop(worker_id, None)
        if share is None:
            return
        self._bits_free.append(share.bit)
        for number in share.runs:
            run = self._runs[number]
            run.full &= ~share.bit
            if run.held_blocks.pop(worker_id) == len(run.blocks):
                self._cut(run)

    def replace(self, worker_id: WorkerId, stored: Sequence[BlocksStored]) -> None:
        """Note that a worker holds these blocks and no others; what it held already is not touched."""
        present = {block_hash for event in stored for block_hash in event.hashes}
        share = self._shares.get(worker_id)
        runs = [self._runs[number] for number in reversed(share.runs)] if share else []
        held = (BlockHash(h) for run in runs for h in reversed(run.blocks[: run.held_blocks[worker_id]]))
        self.remove(worker_id, [block_hash for block_hash in held if block_hash not in present])
        for event in stored:
            self.store(worker_id, event)

    def drop_oldest(self, worker_id: WorkerId, blocks_count: int) -> None:
        """Forget so many blocks of a worker, its oldest runs first, each from its end."""
        share = self._shares.get(worker_id)
        while share and share.runs and blocks_count > 0:
            run = self._runs[next(iter(share.runs))]
            held = run.held_blocks[worker_id]
            kept = max(0, held - blocks_count)
            blocks_count -= held - kept
            self._shorten(worker_id, share, run, held, kept)

    def _first_known(self, hashes: Sequence[BlockHash], start: int) -> int:
        """Find where blocks begin again that are in the table; the first one is not."""
        rest = hashes[start:]
        if self._run_of.keys().isdisjoint(rest):
            return len(hashes)
        return next(i for i, block_hash in enumerate(rest, start) if block_hash in self._run_of)

    def _add(
        self, worker_id: WorkerId, share: _Share, before: BlockHash, hashes: Sequence[BlockHash]
    ) -> None:
        """Take in blocks that nobody held, each once: behind the worker's own end, else as a new run."""
        number = self._run_of.get(before)
        run = self._runs[number] if number is not None else None
        if run is not None and run.blocks[-1] != before:
            if not run.full & share.bit:  # or this worker would be one that holds only a part
                self._split(run, position(run, before, worker_id) + 1)
            run = None
        if run is None or len(run.held_blocks) > 1 or run.held_blocks.get(worker_id) != len(run.blocks):
            run = self._new_run()
        known = len(self._run_of)
        for block_hash in hashes:
            self._run_of[block_hash] = run.number
        added = len(self._run_of) - known
        run.blocks.extend(array("Q", hashes if added == len(hashes) else dict.fromkeys(hashes)))
        run.held_blocks[worker_id] = len(run.blocks)
        run.full = share.bit
        share.runs[run.number] = None
        share.blocks_count += added

    def _join(self, worker_id: WorkerId, share: _Share, run: Run, offset: int, length: int) -> None:
        """Note that a worker holds `length` blocks of a run from `offset` on."""
        held = run.held_blocks.get(worker_id, 0)
        if offset > held:
            run = self._split(run, offset)[1]
            offset = held = 0
        if offset + length > held:
            run.held_blocks[worker_id] = offset + length
            if offset + length == len(run.blocks):
                run.full |= share.bit
            share.runs[run.number] = None
            share.blocks_count += offset + length - held

    def _merge(self, before: BlockHash, run: Run) -> None:
        """Make one run of two that the same workers hold, if the first ends with the block `before`."""
        number = self._run_of.get(before)
        head = self._runs[number] if number is not None else run
        if head is run or head.full != run.full or head.blocks[-1] != before:
            return
        if not (head.held_by_all() and run.held_by_all()):
            return
        kept, gone = (head, run) if len(head.blocks) >= len(run.blocks) else (run, head)
        kept.blocks = head.blocks + run.blocks
        self._run_of.update(dict.fromkeys(map(BlockHash, gone.blocks), kept.number))
        for worker_id in kept.held_blocks:
            kept.held_blocks[worker_id] = len(kept.blocks)
            del self._shares[worker_id].runs[gone.number]
        del self._runs[gone.number]

    def _shorten(self, worker_id: WorkerId, share: _Share, run: Run, held: int, kept: int) -> None:
        """Note that a worker holds fewer leading blocks of a run than it did."""
        share.blocks_count -= held - kept
        run.full &= ~share.bit
        if kept:
            run.held_blocks[worker_id] = kept
        else:
            del run.held_blocks[worker_id]
            del share.runs[run.number]
        if held == len(run.blocks):
            self._cut(run)

    def _cut(self, run: Run) -> None:
        """Drop the end of a run that nobody holds any more."""
        kept = max(run.held_blocks.values(), default=0)
        if kept == len(run.blocks):
            return
        for block_hash in run.blocks[kept:]:
            del self._run_of[BlockHash(block_hash)]
        del run.blocks[kept:]
        run.full = self._full(run)
        if not kept:
            del self._runs[run.number]

    def _full(self, run: Run) -> int:
        """Work out who holds all of a run."""
        whole = len(run.blocks)
        return sum(self._shares[w].bit for w, held in run.held_blocks.items() if held == whole)

    def _new_run(self) -> Run:
        self._runs_made += 1
        run = self._runs[self._runs_made] = Run(self._runs_made, array("Q"))
        return run

    def _split(self, run: Run, at: int) -> tuple[Run, Run]:
        """Part a run in front of the block at `at`, which is neither its first nor beyond its last.

        The longer part keeps the run's number, so a block changes its run at most once per halving.
        """
        other = self._new_run()
        keeps_head = 2 * at >= len(run.blocks)
        moved = slice(at, None) if keeps_head else slice(0, at)
        other.blocks = run.blocks[moved]
        del run.blocks[moved]
        self._run_of.update(dict.fromkeys(map(BlockHash, other.blocks), other.number))
        head, tail = (run, other) if keeps_head else (other, run)
        held_blocks, run.held_blocks = run.held_blocks, {}
        for worker_id, held in held_blocks.items():
            head.held_blocks[worker_id] = min(held, at)
            runs = self._shares[worker_id].runs
            if held > at:
                tail.held_blocks[worker_id] = held - at
                runs[other.number] = None
            elif not keeps_head:
                del runs[run.number]
                runs[other.number] = None
        head.full, tail.full = self._full(head), run.full
        return head, tail
