"""Measure the radix tree of NVIDIA Dynamo's Python package with the prompts of `bench_index`.

Run by `bench_index --peer-python`, in an environment that has `ai-dynamo-runtime`. Prints JSON: rows by name,
each p50 and p99 in microseconds, and bytes per block.
"""

import json
import sys
from functools import partial

from dynamo._core import RadixTree  # type: ignore[import-not-found, unused-ignore]  # not in our environment

from tests.bench.index_load import ROOT, Chain, FleetLoad, fresh, measure_us, resident_bytes


def stored(chain: Chain) -> bytes:
    """An event as the peer's engines send it."""
    blocks = [{"block_hash": h, "tokens_hash": h} for h in chain]
    return told({"stored": {"parent_hash": None, "blocks": blocks}})


def told(data: dict[str, object]) -> bytes:
    """Wrap an event's data."""
    return json.dumps({"event_id": ROOT, "dp_rank": 0, "data": data}).encode()


def look_up(tree: RadixTree, asked: list[list[int]], turn: int) -> dict[tuple[int, int], int]:
    """Ask for one prompt, as far as Python sees the answer."""
    scores: dict[tuple[int, int], int] = tree.find_matches(asked[turn % len(asked)]).scores
    return scores


def main() -> None:
    """Measure once; arguments: workers, blocks, seed."""
    workers, blocks, seed = map(int, sys.argv[1:])
    load = FleetLoad(workers=workers, blocks=blocks, seed=seed)
    tree = RadixTree()
    before_bytes, held = resident_bytes(), 0
    for holders, chain in load.prompts():
        event = stored(chain)
        held += len(chain) * len(holders)
        for worker in holders:
            tree.apply_event(worker, event)
    taken_bytes = resident_bytes() - before_bytes
    rows: dict[str, tuple[float, float]] = {}
    for probe in load.probes():
        for chain in probe.chains:
            event = stored(chain)
            for worker in probe.holders:
                tree.apply_event(worker, event)
        asked = [list(fresh(chain)) for chain in probe.chains]
        assert len(tree.find_matches(asked[0]).scores) == len(probe.holders)
        rows[probe.name()] = measure_us(partial(look_up, tree, asked))
        gone = [h for chain in probe.chains for h in chain[::-1]]
        if parted := list(map(list, map(fresh, probe.parted()))):
            rows[f"{probe.name()}, up to the middle"] = measure_us(partial(look_up, tree, parted))
            event = stored(tuple(parted[0]))
            for worker in probe.holders:
                tree.apply_event(worker, event)
            rows[f"{probe.name()}, in two runs"] = measure_us(partial(look_up, tree, parted[:1]))
            gone = [*probe.other[::-1], *gone]
        event = told({"removed": {"block_hashes": gone}})
        for worker in probe.holders:
            tree.apply_event(worker, event)
    json.dump({"rows": rows, "bytes_per_held_block": taken_bytes / held}, sys.stdout)


if __name__ == "__main__":
    main()
