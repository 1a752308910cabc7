"""Measure the prefix index: look-ups, changes, snapshots and memory, beside the peer's index if asked.

Run it with `python -m tests.bench.bench_index`. Times are by the wall, in microseconds; machines differ and
neighbours disturb, so compare rows of one run. What follows from them: `docs/index.md`.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from services.domain.blocks import BlockHash, BlocksRemoved, BlocksStored, KvEvent, KvEventBatch, KvSnapshot
from services.domain.ids import EngineEpoch, WorkerId
from services.router.prefixes.index import PrefixIndex
from tests.bench.index_load import (
    PROMPT_BLOCKS,
    ROOT,
    Chain,
    FleetLoad,
    Probe,
    fresh,
    measure_us,
    resident_bytes,
)

EPOCH = EngineEpoch("e1")
SEED = 7
EVENTS = 1000


class Fleet:
    """An index, and the workers that tell it what they hold."""

    def __init__(self, load: FleetLoad) -> None:
        self.names = [WorkerId(f"worker-{i:04}") for i in range(load.workers)]
        self.sequences = [0] * load.workers
        self.index = PrefixIndex(slack_frac=0.05, batches_waiting_max=64)
        for name in self.names:
            self.index.fold_worker(name, epoch=EPOCH, kv_blocks=10**9, kv_sequence=0)

    def tell(self, worker: int, *events: KvEvent) -> None:
        """Fold a worker's next batch."""
        self.sequences[worker] += 1
        self.index.fold(
            KvEventBatch(
                worker_id=self.names[worker], epoch=EPOCH, sequence=self.sequences[worker], events=events
            )
        )

    def fill(self, load: FleetLoad) -> int:
        """Store all prompts of a load; count the blocks with each of their holders."""
        held = 0
        for holders, chain in load.prompts():
            for worker in holders:
                self.tell(worker, stored(chain))
                held += len(chain)
        return held


def stored(chain: Chain, parent: int = ROOT) -> BlocksStored:
    """Say that blocks came."""
    return BlocksStored(parent=BlockHash(parent), hashes=hashes_of(chain))


def removed(chain: Chain) -> BlocksRemoved:
    """Say that blocks went."""
    return BlocksRemoved(hashes=hashes_of(chain))


def hashes_of(chain: Chain) -> tuple[BlockHash, ...]:
    """Take a chain as a new message brings it."""
    return tuple(map(BlockHash, fresh(chain)))


def look_ups(fleet: Fleet, probes: list[Probe]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Measure each probe; its blocks are gone afterwards."""
    for probe in probes:
        for worker in probe.holders:
            fleet.tell(worker, *map(stored, probe.chains))
        asked = [hashes_of(chain) for chain in probe.chains]
        assert len(fleet.index.overlaps(asked[0])) == len(probe.holders)
        yield probe.name(), measure_us(partial(look_up, fleet.index, asked))
        if parted := list(map(hashes_of, probe.parted())):
            yield f"{probe.name()}, up to the middle", measure_us(partial(look_up, fleet.index, parted))
            for worker in probe.holders:
                fleet.tell(worker, stored(parted[0]))
            yield f"{probe.name()}, in two runs", measure_us(partial(look_up, fleet.index, parted[:1]))
            for worker in probe.holders:
                fleet.tell(worker, removed(probe.other[::-1]))
        for worker in probe.holders:
            fleet.tell(worker, *(removed(chain[::-1]) for chain in probe.chains))


def look_up(index: PrefixIndex, asked: list[tuple[BlockHash, ...]], turn: int) -> dict[WorkerId, int]:
    """Ask for one prompt."""
    return index.overlaps(asked[turn % len(asked)])


def changes(fleet: Fleet, load: FleetLoad) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Measure what events cost: name, blocks per event, p50 and p99 of an event."""
    workers = load.workers
    chains = [load.chain(125) for _ in range(EVENTS)]
    tails = [load.chain(32) for _ in range(EVENTS)]
    events = [stored(chain) for chain in chains]
    yield "store 125 new blocks", 125, measure_us(lambda i: fleet.tell(i % workers, events[i]), EVENTS)
    singles = [
        (i, stored((block,), tail[at - 1] if at else chain[-1]))
        for i, (chain, tail) in enumerate(zip(chains, tails, strict=True))
        for at, block in enumerate(tail)
    ]
    yield (
        "store one more block while decoding",
        1,
        measure_us(lambda i: fleet.tell(singles[i][0] % workers, singles[i][1]), len(singles)),
    )
    yield (
        "store 125 blocks that another holds",
        125,
        measure_us(lambda i: fleet.tell((i + 1) % workers, events[i]), EVENTS),
    )
    ends = [(i, removed((block,))) for i, tail in enumerate(tails) for block in tail[::-1]]
    yield (
        "remove one block, the last of its prompt",
        1,
        measure_us(lambda i: fleet.tell(ends[i][0] % workers, ends[i][1]), len(ends)),
    )
    shared = [removed(chain[::-1]) for chain in chains]
    yield (
        "remove 125 that another holds, last first",
        125,
        measure_us(lambda i: fleet.tell((i + 1) % workers, shared[i]), EVENTS),
    )
    fronts = [(i, removed((block,))) for i, chain in enumerate(chains[: EVENTS // 10]) for block in chain]
    yield (
        "remove one block, the first of its prompt",
        1,
        measure_us(lambda i: fleet.tell(fronts[i][0] % workers, fronts[i][1]), len(fronts)),
    )


def lives(fleet: Fleet, load: FleetLoad) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Measure snapshots and departures: name, blocks, p50 and p99."""
    rounds = min(20, load.workers)
    prompts = [[load.chain(500) for _ in range(load.prompts_per_worker)] for _ in range(rounds)]
    blocks = 500 * load.prompts_per_worker
    snapshots = [
        KvSnapshot(
            worker_id=fleet.names[i], epoch=EPOCH, sequence=10**6, stored=tuple(map(stored, prompts[i]))
        )
        for i in range(rounds)
    ]
    again = [
        KvSnapshot(
            worker_id=fleet.names[i], epoch=EPOCH, sequence=10**6 + 1, stored=tuple(map(stored, prompts[i]))
        )
        for i in range(rounds)
    ]
    index = fleet.index
    yield (
        "snapshot in place of other blocks",
        blocks,
        measure_us(lambda i: index.fold_snapshot(snapshots[i]), rounds),
    )
    yield "snapshot of the same blocks", blocks, measure_us(lambda i: index.fold_snapshot(again[i]), rounds)
    yield "forget a worker", blocks, measure_us(lambda i: index.forget(fleet.names[i]), rounds)


def beside_the_peer(python: str, workers: int, blocks: int) -> None:
    """Print look-ups of both, with the same prompts."""
    load = FleetLoad(workers=workers, blocks=blocks, seed=SEED)
    fleet = Fleet(load)
    before = resident_bytes()
    held = fleet.fill(load)
    taken = (resident_bytes() - before) / held
    ours = dict(look_ups(fleet, load.probes()))
    command = [python, "-m", "tests.bench.peer_index", str(workers), str(blocks), str(SEED)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    theirs = json.loads(done.stdout)
    print(f"\nbeside the peer: {workers} workers, {len(fleet.index)} distinct blocks")
    print(f"{'look-up, us':46}{'Baton p50':>11}{'p99':>9}{'peer p50':>11}{'p99':>9}{'peer/Baton p50':>17}")
    for name, (p50, p99) in ours.items():
        peer50, peer99 = theirs["rows"][name]
        print(f"{name:46}{p50:11.1f}{p99:9.1f}{peer50:11.1f}{peer99:9.1f}{peer50 / p50:17.1f}")
    print(f"bytes per block and holder: {taken:.0f} Baton, {theirs['bytes_per_held_block']:.0f} peer")


def at_scale(workers: int, blocks: int) -> None:
    """Print everything about one large index."""
    load = FleetLoad(workers=workers, blocks=blocks, seed=SEED)
    fleet = Fleet(load)
    before, start = resident_bytes(), time.perf_counter()
    held = fleet.fill(load)
    took_s, taken = time.perf_counter() - start, resident_bytes() - before
    distinct = len(fleet.index)
    print(f"\nPython {sys.version.split()[0]}")
    print(f"{workers} workers, {distinct} distinct blocks, {held} with each of their holders")
    print(f"filled in {took_s:.1f} s, drawing the load included; {taken / 1e6:.0f} MB resident")
    print(f"{taken / distinct:.0f} bytes per distinct block, {taken / held:.0f} per block and holder")
    start = time.perf_counter()
    gc.collect()
    print(f"one full garbage collection: {1000 * (time.perf_counter() - start):.0f} ms")
    print(f"{'look-up, us':46}{'p50':>10}{'p99':>10}")
    sample = [chain for _, chain in FleetLoad(workers=workers, blocks=blocks // 50, seed=SEED).prompts()]
    cold = [hashes_of(chain) for chain in sample]
    p50, p99 = measure_us(partial(look_up, fleet.index, cold), len(cold))
    print(f"{'  500 blocks, another prompt each time':46}{p50:10.1f}{p99:10.1f}")
    unknown = [hashes_of(load.chain(PROMPT_BLOCKS)) for _ in range(200)]
    p50, p99 = measure_us(partial(look_up, fleet.index, unknown))
    print(f"{'  500 blocks, held by nobody':46}{p50:10.1f}{p99:10.1f}")
    for name, (p50, p99) in look_ups(fleet, load.probes()):
        print(f"{name:46}{p50:10.1f}{p99:10.1f}")
    print(f"{'change, us':46}{'p50':>10}{'p99':>10}{'p50 per block':>16}")
    for name, blocks_count, (p50, p99) in (*changes(fleet, load), *lives(fleet, load)):
        print(f"{name:46}{p50:10.1f}{p99:10.1f}{p50 / blocks_count:16.2f}")


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=1_000_000, help="distinct blocks, about")
    parser.add_argument("--peer-python", help="interpreter with the peer's package")
    parser.add_argument("--peer-blocks", type=int, default=200_000, help="distinct blocks beside the peer")
    asked = parser.parse_args()
    if asked.peer_python:
        beside_the_peer(asked.peer_python, asked.workers, asked.peer_blocks)
        sys.stdout.flush()
        sizes = ["--workers", str(asked.workers), "--blocks", str(asked.blocks)]
        again = [sys.executable, "-m", "tests.bench.bench_index", *sizes]
        subprocess.run(again, check=True)  # in a new process: the memory of this one is used already
    else:
        at_scale(asked.workers, asked.blocks)


if __name__ == "__main__":
    main()
