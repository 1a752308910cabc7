"""Traces for `bench_router_alone`, as prompts of KV blocks.

Comes in: a file, or the name of a made workload. Goes out: prompts in the order of their arrival, at
any speed.
"""

from pathlib import Path
from random import Random

from services.domain.blocks import BlockHash
from services.replay.presets import EngineTiming
from services.replay.retiming import first, spread
from services.replay.trace_files import read_trace
from services.replay.traces import TRACE_BLOCK_TOKENS, PrefixNames, Trace, TracedRequest, kv_blocks, ordered
from services.replay.workloads import WORKLOADS, make_workload
from tests.bench.alone_engine import Prompt

MADE_COUNT = 20_000
"""Requests of a made workload: minutes of a busy fleet, so that its start from empty caches weighs little."""
TICK_S = 3.0
"""Public traces give arrivals in ticks of so long; they are spread over them."""
LATE_BASE_S = 1.0
LATE_FACTOR = 2.0


def agents(*, seed: int = 0, count: int = MADE_COUNT) -> Trace:
    """Make runs of agents: one of twelve long sets of tools, then turns that grow, seconds apart."""
    rng, names = Random(seed), PrefixNames()  # a workload drawn again must be the same
    requests: list[TracedRequest] = []
    began_s, run = 0.0, 0
    while len(requests) < count:
        began_s += rng.expovariate(1.0)
        run += 1
        kind = min(int(rng.paretovariate(1.0)), 12)
        chain: list[int | str] = [f"tools {kind} {part}" for part in range(2 + kind)]
        at_s = began_s
        for turn in range(min(40, int(rng.paretovariate(0.9)))):
            chain += [f"run {run} turn {turn} {part}" for part in range(min(60, int(rng.paretovariate(0.8))))]
            tokens = len(chain) * TRACE_BLOCK_TOKENS + rng.randrange(1, TRACE_BLOCK_TOKENS)
            requests.append(
                TracedRequest(
                    arrival_s=at_s,
                    prompt_tokens=tokens,
                    output_tokens=100,
                    prefix_ids=names.chain(chain, len(chain) + 1),
                )
            )
            at_s += rng.expovariate(1 / 8.0)
    return ordered("agents", sorted(requests, key=lambda request: request.arrival_s)[:count])


def load(name: str, count: int | None) -> Trace:
    """Read a trace file, or make a workload.

    Args:
        name: path, `agents`, or one of `services.replay.workloads`.
        count: keep so many requests at most; None keeps all.
    """
    if name == "agents":
        trace = agents()
    elif name in WORKLOADS:
        trace = make_workload(name, seed=0, count=MADE_COUNT)
    else:
        trace = spread(read_trace(Path(name)), TICK_S)
    return trace if count is None else first(trace, count)


def prompts_of(trace: Trace, timing: EngineTiming) -> list[Prompt]:
    """Cut each prompt into KV blocks and say from when on it is late: 1 s and twice its prefill alone.

    Alone is: nothing cached, nobody else on the worker.
    """
    prompts = []
    for index, request in enumerate(trace.requests):
        solo_s = timing.performance.prompt_s(
            prompt_tokens=request.prompt_tokens, cached_tokens=0, step_tokens_max=timing.step_tokens_max
        )
        names = kv_blocks(
            request, trace_block_tokens=trace.trace_block_tokens, block_size_tokens=timing.block_size_tokens
        )
        prompts.append(
            Prompt(
                index=index,
                arrival_s=request.arrival_s,
                prompt_tokens=request.prompt_tokens,
                names=tuple(BlockHash(name) for name in names),
                late_s=LATE_BASE_S + LATE_FACTOR * solo_s,
            )
        )
    return prompts
