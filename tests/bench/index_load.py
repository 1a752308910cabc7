"""What a prefix index is measured with: a fleet's caches and prompts to look up, the same from every process.

Comes in: sizes and a seed. Goes out: what each worker stores. Standard library only, so that another
package's index can be measured with it in that package's own environment. Hashes are random: an index does
not see how they were made.
"""

import random
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

PROMPT_BLOCKS = 500
SHARED_BLOCKS = 64
FAMILIES = 100
LENGTHS_BLOCKS = (10, 125, 500, 1000, 8000)
HOLDERS = (1, 100, 1000)
CHAINS = 3
ROUNDS = 600
ROOT = 1

Chain = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Prompts of one length that are held by so many workers."""

    length_blocks: int
    holders: tuple[int, ...]
    """Workers, by number."""
    chains: tuple[Chain, ...]
    other: Chain
    """Another way on from the middle; held only once that is measured."""

    def parted(self) -> list[Chain]:
        """Give prompts that leave the chains in their middle; none but for prompts of the fleet's length."""
        half = PROMPT_BLOCKS // 2 + 1
        return [chain[:half] + self.other for chain in self.chains if len(chain) == PROMPT_BLOCKS]

    def name(self) -> str:
        """Name the row."""
        return f"{self.length_blocks:5} blocks, held by {len(self.holders):4}"


class FleetLoad:
    """Prompts of 500 blocks: 64 shared within a family, the rest their own; each tenth has two holders."""

    def __init__(self, *, workers: int, blocks: int, seed: int) -> None:
        """Draw what is small; the rest comes as it is asked for.

        Args:
            workers: how many.
            blocks: distinct blocks of all caches together, about.
            seed: of everything.
        """
        self.workers = workers
        self.prompts_per_worker = max(1, blocks // (workers * (PROMPT_BLOCKS - SHARED_BLOCKS)))
        self._rng = random.Random(seed)
        self._families = [self.chain(SHARED_BLOCKS) for _ in range(FAMILIES)]

    def chain(self, blocks: int) -> Chain:
        """Draw a new chain."""
        return tuple(self._rng.getrandbits(63) for _ in range(blocks))

    def prompts(self) -> Iterator[tuple[tuple[int, ...], Chain]]:
        """Give each prompt with its holders."""
        for i in range(self.workers * self.prompts_per_worker):
            worker = i % self.workers
            holders = (worker, (worker + 1) % self.workers) if i % 10 == 0 else (worker,)
            yield holders, self._rng.choice(self._families) + self.chain(PROMPT_BLOCKS - SHARED_BLOCKS)

    def probes(self) -> list[Probe]:
        """Draw what is looked up."""
        return [
            Probe(
                length_blocks=length,
                holders=tuple(self._rng.sample(range(self.workers), holders)),
                chains=tuple(self.chain(length) for _ in range(CHAINS)),
                other=self.chain(PROMPT_BLOCKS // 2),
            )
            for length in LENGTHS_BLOCKS
            for holders in HOLDERS
            if holders <= self.workers
        ]


def fresh(chain: Chain) -> Chain:
    """Copy a chain with numbers of its own, as a new request brings them."""
    return tuple(array("Q", chain))


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def measure_us(call: Callable[[int], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Time a call, given its round, by the wall: p50 and p99 in microseconds."""
    took_us: list[float] = []
    for i in range(rounds):
        start = time.perf_counter_ns()
        call(i)
        took_us.append((time.perf_counter_ns() - start) / 1000)
    cuts = quantiles(took_us, n=100)
    return cuts[49], cuts[98]
