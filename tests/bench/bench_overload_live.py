"""Goodput when more is asked than can be done, on real engines: vLLM on the CPU, NIXL, NATS, HTTP.

Run it with `python -m tests.bench.bench_overload_live [--seconds N]`. It brings a cluster of one prefill
and one decode worker up, measures what it can do when clients ask one thing after another, then offers 0.5
to 5 times of that over HTTP, streamed, each call with a deadline. Compare rows of one run: machines differ.
"""

import argparse
import asyncio
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import httpx

from services.cluster.settings import ClusterSettings
from services.router.settings import RouterSettings
from tests.bench.overload import percentile
from tests.live.cluster import RunningCluster, open_cluster
from tests.live.conftest import vllm

FACTORS = (0.5, 1.0, 2.0, 3.0, 5.0)
DEADLINE_S = 15.0
TARGETS = RouterSettings(ttft_target_s=2.0, tpot_target_s=0.1, burst_s=3.0, wait_bound_factor=5.0)
"""Wider than the defaults: the engines of this benchmark share the cores with its clients."""
PROMPT_TOKENS = (200, 2000)
OUTPUT_TOKENS = (8, 64)
CLIENTS = 32
_PID = re.compile(r"\(pid (\d+)\)")


@dataclass(slots=True)
class Seen:
    """What became of one load."""

    ended: Counter[str] = field(default_factory=Counter)
    ttft_s: list[float] = field(default_factory=list)
    refusal_s: list[float] = field(default_factory=list)
    retry_after_s: list[float] = field(default_factory=list)
    queues: list[int] = field(default_factory=list)
    in_time_count: int = 0
    good_count: int = 0
    slow_first_count: int = 0
    """Answers in time whose TTFT missed its target."""
    slow_count: int = 0
    """Answers in time whose TPOT missed its target."""


def body_of(rng: random.Random) -> dict[str, object]:
    """A prompt that nobody has cached."""
    low, high = PROMPT_TOKENS
    tokens = round(low * (high / low) ** rng.random())
    return {
        "model": "baton-tiny",
        "prompt": [300 + rng.randrange(1700) for _ in range(tokens)],
        "max_tokens": rng.randint(*OUTPUT_TOKENS),
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }


async def ask(http: httpx.AsyncClient, body: dict[str, object], seen: Seen) -> None:
    """Ask once and note the end."""
    began_s = monotonic()
    times_s: list[float] = []
    end = "lost"
    headers = {"x-request-timeout-s": str(DEADLINE_S)}
    try:
        async with http.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            if answer.status_code != httpx.codes.OK:
                end = json.loads(await answer.aread())["error"]["code"]
                seen.refusal_s.append(monotonic() - began_s)
                if "retry-after" in answer.headers:
                    seen.retry_after_s.append(float(answer.headers["retry-after"]))
            else:
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        end = "ok"
                    elif line.startswith('data: {"error"'):
                        end = json.loads(line[6:])["error"]["code"]
                    elif line:
                        times_s.append(monotonic() - began_s)
    except httpx.HTTPError as error:
        end = type(error).__name__
    seen.ended[end] += 1
    if end != "ok":
        return
    seen.ttft_s.append(times_s[0])
    tpot_s = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
    in_time = monotonic() - began_s <= DEADLINE_S
    seen.in_time_count += in_time
    seen.slow_first_count += in_time and times_s[0] > TARGETS.ttft_target_s
    seen.slow_count += in_time and tpot_s > TARGETS.tpot_target_s
    seen.good_count += in_time and times_s[0] <= TARGETS.ttft_target_s and tpot_s <= TARGETS.tpot_target_s


async def capacity(http: httpx.AsyncClient, seconds: float) -> float:
    """Answers per second while `CLIENTS` clients ask one thing after another."""
    rng, seen = random.Random(0), Seen()
    until_s = monotonic() + seconds

    async def ask_on() -> None:
        while monotonic() < until_s:
            await ask(http, body_of(rng), seen)

    began_s = monotonic()
    await asyncio.gather(*(ask_on() for _ in range(CLIENTS)))
    return seen.ended["ok"] / (monotonic() - began_s)


async def offer(cluster: RunningCluster, http: httpx.AsyncClient, rate_per_s: float, seconds: float) -> Seen:
    """Offer a load at random moments, whatever comes back."""
    rng, seen = random.Random(round(rate_per_s * 1000)), Seen()

    async def watch() -> None:
        while True:
            state = await cluster.state()
            seen.queues.append(state.queue_waiting_count)
            await asyncio.sleep(0.5)

    watching = asyncio.ensure_future(watch())
    async with asyncio.TaskGroup() as group:
        until_s = monotonic() + seconds
        while monotonic() < until_s:
            await asyncio.sleep(rng.expovariate(rate_per_s))
            group.create_task(ask(http, body_of(rng), seen))
    watching.cancel()
    return seen


def memory_mb(cluster: RunningCluster) -> float:
    """Resident memory of the gateway."""
    found = _PID.search((cluster.folder / "gateway.log").read_text(encoding="utf-8"))
    assert found is not None
    status = Path(f"/proc/{found[1]}/status").read_text(encoding="utf-8")
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) / 1024


async def measure(cluster: RunningCluster, seconds: float, factors: Sequence[float]) -> None:
    """Print one table."""
    limits = httpx.Limits(max_connections=2000)
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60, trust_env=False, limits=limits) as http:
        await capacity(http, seconds / 2)  # shakes hands, learns how long outputs are
        per_s = await capacity(http, seconds)
        print(f"capacity with {CLIENTS} clients: {per_s:.1f} requests/s; gateway {memory_mb(cluster):.0f} MB")
        print(
            "| load | offered/s | in time/s | goodput/s | missed TTFT, TPOT | ended | TTFT p50, p99 | "
            "refusal p99 | retry-after p50 | queue max | gateway |\n" + "|---" * 11 + "|"
        )
        for factor in factors:
            seen = await offer(cluster, http, factor * per_s, seconds)
            ended = ", ".join(f"{count} {code}" for code, count in seen.ended.most_common())
            print(
                f"| {factor:g}x | {sum(seen.ended.values()) / seconds:.1f} | "
                f"{seen.in_time_count / seconds:.1f} | {seen.good_count / seconds:.1f} | "
                f"{seen.slow_first_count}, {seen.slow_count} | {ended} | "
                f"{percentile(seen.ttft_s, 0.5):.2f}, {percentile(seen.ttft_s, 0.99):.2f} s | "
                f"{percentile(seen.refusal_s, 0.99):.2f} s | {percentile(seen.retry_after_s, 0.5):.0f} s | "
                f"{max(seen.queues, default=0)} | {memory_mb(cluster):.0f} MB |",
                flush=True,
            )


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each load")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="loads over capacity")
    arguments = parser.parse_args()
    seconds: float = arguments.seconds
    settings = ClusterSettings(vllm=vllm(), router=TARGETS)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cluster(settings, Path(folder)) as cluster,
    ):
        asyncio.run(measure(cluster, seconds, arguments.factors))


if __name__ == "__main__":
    main()
