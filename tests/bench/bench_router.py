"""How long the router takes: one placement, one look-up, folding events and statuses; how a decision grows.

Run it with `python -m tests.bench.bench_router`. It prints three tables. Machines differ, and a shared one
differs from moment to moment, so each call is also compared with a yardstick measured just before it.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median, quantiles

from services.domain.blocks import BlockHash, BlocksRemoved, BlocksStored, KvEventBatch
from services.domain.ids import EngineEpoch, RequestId, WorkerId
from services.domain.placement import Placement
from services.domain.worker import WorkerLoad
from services.router.decode_placement import place_decode
from services.router.fleet.fleet_view import FleetView
from services.router.placement import place
from services.router.pricing.queue_load import QueueLoad
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, LIMITS, PREFILL, decode_query, query, worker

WORKERS = 100
PROMPT_TOKENS = 8000
BLOCKS = PROMPT_TOKENS // 16
ROUNDS = 2000
GROWTH_WORKERS = (8, 100, 300, 1000)
GROWTH_HOLDERS = (0, 1, 30, 1000)
GROWTH_ROUNDS = 300
STATES = ("idle", "loaded", "full", "soft")


def build(rng: random.Random) -> tuple[Router, list[tuple[BlockHash, ...]]]:
    """A fleet of half prefill and half decode workers whose caches are nearly full."""
    router = Router(RouterSettings())
    prompts = [tuple(BlockHash(rng.getrandbits(64)) for _ in range(BLOCKS)) for _ in range(200)]
    for i in range(WORKERS):
        load = WorkerLoad(
            running_count=rng.randrange(1, 40) if i % 2 else 0,
            running_context_tokens=rng.randrange(20_000) if i % 2 else 0,
            waiting_prefill_tokens=rng.choice((0, 0, 3000)),
            waiting_count=1,
            kv_used_blocks=rng.randrange(2000),
        )
        name = f"worker-{i}"
        router.fold_status(worker(name, DECODE if i % 2 else PREFILL, load=load), 0.0)
        held = rng.sample(prompts, LIMITS.kv_blocks // BLOCKS)
        events = tuple(
            BlocksStored(parent=BlockHash(0), hashes=prompt[: rng.randrange(1, BLOCKS + 1)])
            for prompt in held
        )
        router.fold_kv(batch(name, 1, events))
    return router, prompts


def batch(name: str, sequence: int, events: tuple[BlocksStored | BlocksRemoved, ...]) -> KvEventBatch:
    """One batch of a worker."""
    return KvEventBatch(worker_id=WorkerId(name), epoch=EngineEpoch("e1"), sequence=sequence, events=events)


def nothing(_: int) -> None:
    """Clean up nothing."""


def measure(name: str, call: Callable[[int], object], clean_up: Callable[[int], None] = nothing) -> None:
    """Print quantiles of the CPU time of a call: what else the machine does is not counted.

    Args:
        name: of the row.
        call: what is measured, given the round.
        clean_up: done after each call, not measured.
    """
    took_us: list[float] = []
    yardsticks: list[float] = []
    for i in range(ROUNDS):
        before = time.thread_time_ns()
        count_to_a_thousand()
        start = time.thread_time_ns()
        call(i)
        end = time.thread_time_ns()
        took_us.append((end - start) / 1000)
        yardsticks.append((end - start) / (start - before))
        clean_up(i)
    cuts = quantiles(took_us, n=100)
    row = (("least", min(took_us)), ("p50", cuts[49]), ("p90", cuts[89]), ("p99", cuts[98]))
    print(
        f"{name:48}"
        + "".join(f" {label} {us:7.1f} us " for label, us in row)
        + f" p50 {median(yardsticks):5.2f} yardsticks"
    )


def count_to_a_thousand() -> None:
    """Do nothing a thousand times."""
    for _ in range(1000):
        pass


def fleet_in(state: str, count: int, rng: random.Random) -> FleetView:
    """Half prefill and half decode workers, idle, busy, or without room for more; or all in both roles."""
    fleet = FleetView(RouterSettings())
    for i in range(count):
        load, full = WorkerLoad(), state == "full"
        phases = BOTH if state == "soft" else DECODE if i % 2 else PREFILL
        if state != "idle":
            load = WorkerLoad(
                running_count=rng.randrange(1, 40) if i % 2 else 0,
                running_context_tokens=rng.randrange(20_000) if i % 2 else 0,
                waiting_prefill_tokens=2_000_000 if full else rng.choice((0, 0, 3000)),
                waiting_count=1,
                kv_used_blocks=LIMITS.kv_blocks if full else rng.randrange(2000),
            )
        fleet.fold_status(worker(f"worker-{i}", phases, load=load), 0.0)
    return fleet


def grow(state: str, count: int) -> str:
    """Measure decisions without look-up: for each number of holders p50 of CPU time, us and yardsticks."""
    rng = random.Random(count)
    fleet, settings = fleet_in(state, count, rng), RouterSettings()
    cells: list[str] = []
    for holders in GROWTH_HOLDERS:
        took_us: list[float] = []
        yardsticks: list[float] = []
        for i in range(GROWTH_ROUNDS):
            asked = query(f"g{i}", prompt_tokens=PROMPT_TOKENS, hashes=())
            asked = replace(asked, output_tokens_expected=60, deadline_s=60.0)
            who = rng.sample(range(count), min(holders, count))
            overlaps = {WorkerId(f"worker-{w}"): rng.randrange(1, BLOCKS + 1) for w in who}
            before = time.thread_time_ns()
            count_to_a_thousand()
            start = time.thread_time_ns()
            place(asked, fleet=fleet, overlaps=overlaps, queue=QueueLoad(), settings=settings, now_s=0.0)
            end = time.thread_time_ns()
            took_us.append((end - start) / 1000)
            yardsticks.append((end - start) / (start - before))
        cells.append(f"{median(took_us):6.0f} /{median(yardsticks):5.1f}")
    return "".join(cells)


def grow_decode(state: str, count: int) -> str:
    """Measure choices of who continues a prompt: p50 of CPU time, us and yardsticks."""
    fleet, settings = fleet_in(state, count, random.Random(count)), RouterSettings()
    step_limit_s = 0.015 if state == "soft" else None
    took_us: list[float] = []
    yardsticks: list[float] = []
    for i in range(GROWTH_ROUNDS):
        asked = decode_query(f"g{i}", context_tokens=PROMPT_TOKENS, holder="worker-2")
        before = time.thread_time_ns()
        count_to_a_thousand()
        start = time.thread_time_ns()
        place_decode(asked, fleet=fleet, settings=settings, now_s=0.0, step_limit_s=step_limit_s)
        end = time.thread_time_ns()
        took_us.append((end - start) / 1000)
        yardsticks.append((end - start) / (start - before))
    return f"{median(took_us):6.0f} /{median(yardsticks):5.1f}"


def main() -> None:
    """Measure everything once."""
    rng = random.Random(7)
    router, prompts = build(rng)
    known = [query(f"k{i}", prompt_tokens=PROMPT_TOKENS, hashes=prompts[i % 200]) for i in range(ROUNDS)]
    fresh = [query(f"f{i}", prompt_tokens=PROMPT_TOKENS) for i in range(ROUNDS)]
    handed = [decode_query(f"d{i}") for i in range(ROUNDS)]

    def end_of(kind: str) -> Callable[[int], None]:
        return lambda i: router.fold_ended(RequestId(f"{kind}{i}"))

    print(f"{WORKERS} workers, {BLOCKS} blocks per prompt, {len(router.index)} distinct blocks in the index")
    measure("yardstick: 1,000 turns of an empty loop", lambda _: count_to_a_thousand())
    measure("look-up, prompt held by several", lambda i: router.index.overlaps(known[i].block_hashes))
    measure("look-up, prompt held by nobody", lambda i: router.index.overlaps(fresh[i].block_hashes))
    measure("place, prompt held by several", lambda i: router.place(known[i], 0.0), end_of("k"))
    measure("place, prompt held by nobody", lambda i: router.place(fresh[i], 0.0), end_of("f"))
    told = [router.place(query(f"t{i}", prompt_tokens=PROMPT_TOKENS), 0.0) for i in range(20)]
    placed = [outcome for outcome in told if isinstance(outcome, Placement)]
    measure("tell why: candidates and reason", lambda i: (placed[i % 20].candidates, placed[i % 20].reason))
    for i in range(20):
        router.fold_ended(RequestId(f"t{i}"))
    measure("place a decode", lambda i: router.place_decode(handed[i], 0.0), end_of("d"))
    blocks = [tuple(BlockHash(rng.getrandbits(64)) for _ in range(64)) for _ in range(ROUNDS)]
    measure(
        "fold a batch of 64 blocks stored and 64 removed",
        lambda i: router.fold_kv(
            batch(
                "worker-1",
                i + 2,
                (
                    BlocksStored(parent=BlockHash(0), hashes=blocks[i]),
                    BlocksRemoved(hashes=blocks[i - 1] if i else ()),
                ),
            )
        ),
    )
    statuses = [worker("worker-3", DECODE, sequence=i + 2) for i in range(ROUNDS)]
    measure("fold a status", lambda i: router.fold_status(statuses[i], 1.0))
    print(
        "\nplace without look-up, p50 in us / in yardsticks of the same moment, by workers that hold some of "
        "the prompt (most: all of them)"
    )
    print(f"{'fleet':16}" + "".join(f"{holders:13}" for holders in GROWTH_HOLDERS))
    for state in STATES:
        for count in GROWTH_WORKERS:
            print(f"{state:8}{count:8}" + grow(state, count), flush=True)
    print("\nplace a decode, p50 in us / in yardsticks of the same moment")
    for state in STATES:
        for count in GROWTH_WORKERS:
            print(f"{state:8}{count:8}" + grow_decode(state, count), flush=True)


if __name__ == "__main__":
    main()
