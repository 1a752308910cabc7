"""Soft-roled workers beside fixed splits: the shells of a whole cluster, on the virtual clock, under a trace.

    python -m tests.bench.bench_soft_roles TRACE --first 600 --speedup 3 --splits 2 4 6

Every row is one cluster of the same number of simulated engines: `soft` can all do both, `P+D` are two pools.
Gateway, router, queue and workers are the real ones; only engines and wires are simulated. TTFT counts from
the call to the first token that the client gets, ITL are all gaps between tokens, goodput is the share of
requests with TTFT and mean gap (then: the 99th percentile of their own gaps) within the targets.
Not here: many hours of a trace, and policies of others (`baton replay`).
"""

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.blocks import CacheScope
from services.domain.errors import ServingError
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest, Sampling
from services.domain.worker import Phase
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.conductor import Conductor
from services.gateway.port import ServeOptions
from services.replay.trace_files import read_trace
from services.replay.traces import TracedRequest
from services.router.settings import RouterSettings
from services.runtime.clock import run_virtual

BOTH = (Phase.DECODE, Phase.PREFILL)
WORDS = 3000
"""Token ids that a prompt is made of."""


@dataclass(slots=True)
class Seen:
    """What clients saw."""

    ttfts_s: list[float] = field(default_factory=list)
    gaps_s: list[np.ndarray] = field(default_factory=list)
    """Per request, shape [tokens - 1]."""
    failed: list[str] = field(default_factory=list)
    local_count: int = 0


def phases_of(workers: int, prefill: int | None) -> Mapping[str, tuple[Phase, ...]]:
    """Name the workers of a cluster.

    Args:
        workers: how many.
        prefill: size of the prefill pool; None: all are soft-roled.
    """
    if prefill is None:
        return dict.fromkeys((f"soft-{i}" for i in range(workers)), BOTH)
    return {f"p-{i}": (Phase.PREFILL,) for i in range(prefill)} | {
        f"d-{i}": (Phase.DECODE,) for i in range(workers - prefill)
    }


def make_prompt(traced: TracedRequest, block_tokens: int) -> tuple[int, ...]:
    """Make tokens that are equal where the trace says that prompts are."""
    tokens: list[int] = []
    for prefix_id in traced.prefix_ids:
        high, low = divmod(prefix_id, WORDS)
        tokens += (261 + low, 261 + high % WORDS, *((261 + low,) * (block_tokens - 2)))
    tokens = tokens[: traced.prompt_tokens]
    return tuple(tokens + [261] * (traced.prompt_tokens - len(tokens)))


async def play(
    requests: Sequence[TracedRequest],
    *,
    block_tokens: int,
    speedup: float,
    phases: Mapping[str, tuple[Phase, ...]],
    router: RouterSettings,
) -> Seen:
    """Send a trace through a cluster."""
    cluster = InProcessCluster(phases, engine=SimulatedSettings(eos_every_tokens=0), router=router)
    await cluster.start()
    seen, loop = Seen(), asyncio.get_running_loop()
    begin_s = loop.time()
    try:
        async with asyncio.TaskGroup() as group:
            for number, traced in enumerate(requests):
                await asyncio.sleep(begin_s + traced.arrival_s / speedup - loop.time())
                asked = InferenceRequest(
                    request_id=RequestId(f"r{number}"),
                    scope=CacheScope(model=MODEL),
                    prompt_token_ids=make_prompt(traced, block_tokens),
                    sampling=Sampling(
                        max_tokens=max(1, traced.output_tokens), temperature=0.0, ignore_eos=True
                    ),
                )
                group.create_task(ask(cluster.gateways[0], asked, seen))
    finally:
        await cluster.stop()
    return seen


async def ask(gateway: Conductor, asked: InferenceRequest, seen: Seen) -> None:
    """Serve one request and note when its tokens came."""
    loop = asyncio.get_running_loop()
    at_s = loop.time()
    moments: list[float] = []
    error: str | None = None
    try:
        async for delta in gateway.generate(asked, ServeOptions(deadline_s=None)):
            moments += [loop.time()] * len(delta.token_ids)
            error = delta.error.code if delta.error is not None else error
    except ServingError as refused:
        error = refused.code
    if error is not None or not moments:
        seen.failed.append(error or "empty")
        return
    seen.ttfts_s.append(moments[0] - at_s)
    seen.gaps_s.append(np.diff(moments))
    record = gateway.record(asked.request_id)
    seen.local_count += record is not None and record.handoff is None


def row_of(name: str, seen: Seen, targets: RouterSettings, took_s: float) -> str:
    """Say what was seen, as a row of a table."""
    ttfts, gaps = np.array(seen.ttfts_s), np.concatenate(seen.gaps_s)
    in_time = ttfts <= targets.ttft_target_s
    mean = [g.mean() <= targets.tpot_target_s if len(g) else True for g in seen.gaps_s]
    tail = [np.percentile(g, 99) <= targets.tpot_target_s if len(g) else True for g in seen.gaps_s]
    good, good_p99 = np.count_nonzero(in_time & mean), np.count_nonzero(in_time & tail)
    return (
        f"| {name} | {ttfts.mean() * 1e3:.0f} / {np.percentile(ttfts, 95) * 1e3:.0f} | "
        f"{gaps.mean() * 1e3:.1f} / {np.percentile(gaps, 99) * 1e3:.1f} | {good} / {good_p99} | "
        f"{seen.local_count} | {len(seen.failed)} | {took_s:.0f} |"
    )


def main() -> None:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace", type=Path, help="JSON lines or CSV, as `baton replay` reads them")
    parser.add_argument("--first", type=int, default=600, help="requests (default: 600)")
    parser.add_argument("--skip", type=int, default=0, help="requests left out before them (default: 0)")
    parser.add_argument("--speedup", type=float, default=3.0, help="of arrivals (default: 3)")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--splits", type=int, nargs="*", default=[2, 4, 6], help="sizes of the prefill pool")
    parser.add_argument("--ttft-slo-s", type=float, default=2.0)
    parser.add_argument("--itl-slo-s", type=float, default=0.025)
    args = parser.parse_args()
    router = RouterSettings(
        ttft_target_s=args.ttft_slo_s, tpot_target_s=args.itl_slo_s, early_rejection=False
    )
    trace = read_trace(args.trace)
    requests = trace.requests[args.skip : args.skip + args.first]
    begin_s = requests[0].arrival_s
    requests = tuple(replace(request, arrival_s=request.arrival_s - begin_s) for request in requests)
    print("| cluster | TTFT mean / p95, ms | ITL mean / p99, ms | good by mean / p99 | local | failed | s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for prefill in (None, *args.splits):
        name = "soft" if prefill is None else f"{prefill}+{args.workers - prefill}"
        began_s = time.process_time()
        story = play(
            requests,
            block_tokens=trace.trace_block_tokens,
            speedup=args.speedup,
            phases=phases_of(args.workers, prefill),
            router=router,
        )
        seen = run_virtual(story)
        print(row_of(name, seen, router, time.process_time() - began_s), flush=True)


if __name__ == "__main__":
    main()
