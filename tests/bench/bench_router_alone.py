"""The router and the order of claims alone, on workers that only prefill, beside what one cache could do.

Run it with `python -m tests.bench.bench_router_alone [TRACE ...]`. For each trace and setup it finds the
highest speed of arrivals at which 99 % of the requests are in time, and compares it with the reference
(`alone_pooled`). A share of 0.93 is the goal. With `--rate` it instead replays at that many requests per
second and worker and tells how many were late, which tells changes apart that a bisection does not.
docs/router-alone.md tells how to read it.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import quantiles

from services.replay.presets import EngineTiming, timing_named
from tests.bench.alone_engine import Clock, Prompt, parents_of
from tests.bench.alone_live import CHURN_S, LiveFleet, Setup
from tests.bench.alone_news import News
from tests.bench.alone_pooled import ORDERS, PooledFleet
from tests.bench.alone_tally import LATE_FRAC_MAX, Tally
from tests.bench.alone_traces import load, prompts_of

BLOCK_TOKENS = 64
"""Tokens per KV block here; with 16 a run takes four times as long and ends the same."""
PRECISION_FRAC = 0.015
SETUPS: dict[str, Setup] = {
    "8 workers": Setup(),
    "8, two routers": Setup(router_count=2),
    "8, 1 % of batches lost, up to 1 s late": Setup(news=News(delay_s=(0.1, 1.0), lost_frac=0.01)),
    "8, one leaves and one joins every 60 s": Setup(churn=True),
    "32 workers": Setup(worker_count=32),
    "32, all of it, two routers": Setup(
        worker_count=32, router_count=2, churn=True, news=News(delay_s=(0.1, 1.0), lost_frac=0.01)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run."""

    met: bool
    ttft_mean_s: float
    hit_frac: float
    preferred_frac: float = 0.0
    late_frac: float = 0.0
    share_p99: float = 0.0
    """99th percentile of TTFT as a share of what it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A trace cut into blocks."""

    prompts: Sequence[Prompt]
    timing: EngineTiming
    parents: dict[int, int]
    per_s: float
    """Requests per second at speed 1."""

    @classmethod
    def of(cls, name: str, count: int | None, timing: EngineTiming) -> "Load":
        """Load a trace."""
        trace = load(name, count)
        prompts = prompts_of(trace, timing)
        return cls(
            prompts=prompts,
            timing=timing,
            parents=parents_of(prompts),
            per_s=len(prompts) / max(1e-9, trace.duration_s),
        )


def replay(load: Load, speed: float, arrive: Callable[[Prompt], None], clock: Clock, tally: Tally) -> None:
    """Let the prompts arrive so many times as fast, until all are served or too many are late."""

    def next_one(place: int) -> None:
        prompt = replace(load.prompts[place], arrival_s=clock.now_s)
        if place + 1 < len(load.prompts):
            at_s = load.prompts[place + 1].arrival_s / speed
            clock.after(max(0.0, at_s - clock.now_s), lambda: next_one(place + 1))
        tally.arrived(prompt)
        arrive(prompt)

    clock.after(0.0, lambda: next_one(0))
    clock.after(1.0, tally.review)
    clock.run()


def run_live(load: Load, setup: Setup, speed: float, late_frac_max: float = LATE_FRAC_MAX) -> Outcome:
    """Replay through the live code, until too many are late."""
    clock = Clock()
    tally = Tally(clock=clock, prompt_count=len(load.prompts), late_frac_max=late_frac_max)
    fleet = LiveFleet(clock, tally, load.timing, setup, load.parents)
    replay(load, speed, fleet.arrive, clock, tally)
    return Outcome(
        met=tally.met,
        ttft_mean_s=sum(tally.ttfts_s) / max(1, len(tally.ttfts_s)),
        hit_frac=fleet.hit_tokens() / sum(prompt.prompt_tokens for prompt in load.prompts),
        preferred_frac=fleet.preferred_count / len(load.prompts),
        late_frac=len(tally.late) / len(load.prompts),
        share_p99=quantiles(tally.shares, n=100)[98] if len(tally.shares) > 1 else 0.0,
    )


def run_pooled(load: Load, setup: Setup, order: str, speed: float) -> Outcome:
    """Replay through the reference, which loses caches where the setup's workers leave."""
    clock = Clock()
    tally = Tally(clock=clock, prompt_count=len(load.prompts))
    loses_every_s = CHURN_S if setup.churn else None
    fleet = PooledFleet(clock, tally, load.timing, setup.worker_count, order, loses_every_s=loses_every_s)
    replay(load, speed, fleet.arrive, clock, tally)
    return Outcome(
        met=tally.met,
        ttft_mean_s=sum(tally.ttfts_s) / max(1, len(tally.ttfts_s)),
        hit_frac=sum(e.hit_tokens for e in fleet.engines) / sum(p.prompt_tokens for p in load.prompts),
    )


def highest(
    run: Callable[[float], Outcome], guess: float, growth: float = 1.25
) -> tuple[float, Outcome | None]:
    """Find by bisection the highest speed at which the goal is met, to `PRECISION_FRAC`.

    Args:
        run: replays at a speed.
        guess: where to begin.
        growth: by how much to go on while the goal is met; little where the guess is good.

    Returns:
        The speed, and the run at it.
    """
    low, high, best = 0.0, guess, None
    while True:
        outcome = run(high)
        if not outcome.met:
            break
        low, high, best = high, high * growth, outcome
    while low == 0.0 or high - low > PRECISION_FRAC * low:
        middle = high / growth if low == 0.0 else (low + high) / 2
        if middle < guess / 1000:
            break
        outcome = run(middle)
        if outcome.met:
            low, best = middle, outcome
        else:
            high = middle
    return low, best


def reference(load: Load, setup: Setup, guess: float) -> tuple[float, Outcome | None]:
    """Find what one cache would do, in the better of the two orders."""
    found = [highest(partial(run_pooled, load, setup, order), guess) for order in ORDERS]
    return max(found, key=lambda pair: pair[0])


def print_at_rate(load: Load, setups: dict[str, Setup], per_s: float) -> None:
    """Print how many are late at a rate of requests per second and worker."""
    print("| setup | late | TTFT mean | TTFT p99 of what it may be | hits |\n|---|---|---|---|---|")
    for title, setup in setups.items():
        found = run_live(load, setup, per_s * setup.worker_count / load.per_s, late_frac_max=1.0)
        print(
            f"| {title} | {found.late_frac:.2%} | {found.ttft_mean_s * 1e3:.0f} ms | {found.share_p99:.2f} "
            f"| {found.hit_frac:.3f} |",
            flush=True,
        )


def main(options: argparse.Namespace) -> None:
    """Print one table per trace."""
    timing = timing_named(options.timing)
    tokens = timing.kv_blocks * timing.block_size_tokens
    timing = replace(timing, block_size_tokens=BLOCK_TOKENS, kv_blocks=tokens // BLOCK_TOKENS)
    setups = {name: setup for name, setup in SETUPS.items() if options.only in name}
    for name in options.trace or ("agents", "shared-prefix"):
        trace = Load.of(name, options.first, timing)
        print(f"\n{name.rpartition('/')[2]}: {len(trace.prompts)} requests, {trace.per_s:.2f}/s\n")
        if options.rate is not None:
            print_at_rate(trace, setups, options.rate)
            continue
        print(
            "| setup | requests/s per worker | reference | share | share of one that loses as much "
            "| hits | reference | named worker | run |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        references: dict[tuple[int, bool], tuple[float, Outcome | None]] = {}
        for title, setup in setups.items():
            workers, began_s = setup.worker_count, time.perf_counter()
            for churn in sorted({False, setup.churn}):
                if (workers, churn) not in references:
                    known = {count: found[0] / count for (count, _), found in references.items()}
                    guess = known.get(workers, known.get(8, 0.5)) * workers
                    references[workers, churn] = reference(trace, replace(setup, churn=churn), guess)
            bound, pooled = references[workers, False]
            fair = references[workers, setup.churn][0]
            speed, live = highest(partial(run_live, trace, setup), bound * 0.93, growth=1.06)
            each = trace.per_s / workers
            print(
                f"| {title} | {speed * each:.2f} | {bound * each:.2f} "
                f"| {speed / bound:.3f} | {speed / fair:.3f} "
                f"| {live.hit_frac if live else 0:.3f} | {pooled.hit_frac if pooled else 0:.3f} "
                f"| {live.preferred_frac if live else 0:.2f} | {time.perf_counter() - began_s:.0f} s |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", nargs="*", help="trace file, `agents`, or a workload of baton replay")
    parser.add_argument("--first", type=int, help="keep so many requests")
    parser.add_argument("--only", default="", help="setups whose names contain this")
    parser.add_argument("--rate", type=float, help="requests per second and worker, instead of a search")
    parser.add_argument("--timing", default="h200-llama-3.1-8b-fp8", help="engine, as in baton replay")
    main(parser.parse_args())
