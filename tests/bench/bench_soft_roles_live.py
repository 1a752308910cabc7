"""One prefill and one decode worker beside two soft-roled ones, on real engines: vLLM, NIXL, NATS, HTTP.

    python -m tests.bench.bench_soft_roles_live --seconds 30

Both clusters get the same calls at the same moments: first mostly long prompts with short answers, then
mostly short prompts with long ones, then both kinds mixed. Answers are greedy, so every text must be the
same in both clusters. Compare rows of one run: machines differ.
"""

import argparse
import asyncio
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from time import monotonic

import httpx
import msgspec

from services.cluster.settings import ClusterSettings
from services.router.settings import RouterSettings
from tests.bench.overload import percentile
from tests.live.cluster import RunningCluster, open_cluster
from tests.live.conftest import vllm

TARGETS = RouterSettings(ttft_target_s=2.0, tpot_target_s=0.1, early_rejection=False)
"""Wider than the defaults: the engines share two cores with the gateway and the clients."""
LONG, SHORT = (800, 2000), (16, 200)
"""Prompt tokens."""
FEW, MANY = (4, 12), (60, 120)
"""Output tokens."""
PHASES: Mapping[str, Sequence[tuple[tuple[int, int], tuple[int, int]]]] = {
    "long prompts": ((LONG, FEW),) * 4 + ((SHORT, MANY),),
    "long answers": ((SHORT, MANY),) * 4 + ((LONG, FEW),),
    "mixed": ((LONG, MANY), (SHORT, FEW), (LONG, FEW), (SHORT, MANY)),
}
CLUSTERS = {"1 prefill, 1 decode": (1, 1, 0), "2 soft-roled": (0, 0, 2)}


@dataclass(slots=True)
class Seen:
    """What clients of one phase saw."""

    ttfts_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    good_count: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    """By number of the call."""
    failed: list[str] = field(default_factory=list)


def calls_of(phase: str, seconds: float, rate_per_s: float) -> list[tuple[float, dict[str, object]]]:
    """Make the calls of a phase: when, and what."""
    rng = random.Random(phase)
    at_s, calls = 0.0, []
    while (at_s := at_s + rng.expovariate(rate_per_s)) < seconds:
        prompt, output = rng.choice(PHASES[phase])
        body: dict[str, object] = {
            "model": "baton-tiny",
            "prompt": [300 + rng.randrange(1700) for _ in range(rng.randint(*prompt))],
            "max_tokens": rng.randint(*output),
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        calls.append((at_s, body))
    return calls


async def ask(http: httpx.AsyncClient, number: int, body: dict[str, object], seen: Seen) -> None:
    """Ask once and note what came when."""
    began_s = monotonic()
    times_s: list[float] = []
    text = ""
    try:
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line[6:]).get("choices")
                if choices is None:
                    seen.failed.append(line)
                    return
                times_s.append(monotonic() - began_s)
                text += choices[0]["text"]
    except httpx.HTTPError as error:
        seen.failed.append(type(error).__name__)
        return
    gaps_s = [b - a for a, b in pairwise(times_s)]
    seen.texts[number] = text
    seen.ttfts_s.append(times_s[0])
    seen.gaps_s += gaps_s
    slow = bool(gaps_s) and mean(gaps_s) > TARGETS.tpot_target_s
    seen.good_count += times_s[0] <= TARGETS.ttft_target_s and not slow


async def play(
    cluster: RunningCluster, calls: Sequence[tuple[float, dict[str, object]]], first_number: int
) -> Seen:
    """Make calls at their moments."""
    seen = Seen()
    limits = httpx.Limits(max_connections=500)
    async with (
        httpx.AsyncClient(base_url=cluster.url, timeout=60, trust_env=False, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        began_s = monotonic()
        for number, (at_s, body) in enumerate(calls, start=first_number):
            await asyncio.sleep(began_s + at_s - monotonic())
            group.create_task(ask(http, number, body, seen))
    return seen


async def measure(cluster: RunningCluster, name: str, seconds: float, rate_per_s: float) -> dict[int, str]:
    """Play all phases and print a row of each; returns the texts."""
    warm_up = calls_of("mixed", 5.0, rate_per_s)
    await play(cluster, warm_up, first_number=0)
    texts: dict[int, str] = {}
    number = 0
    for phase in PHASES:
        calls = calls_of(phase, seconds, rate_per_s)
        seen = await play(cluster, calls, number)
        number += len(calls)
        texts |= seen.texts
        print(
            f"| {phase} | {name} | {len(calls)} | {mean(seen.ttfts_s) * 1e3:.0f} / "
            f"{percentile(seen.ttfts_s, 0.95) * 1e3:.0f} | {mean(seen.gaps_s) * 1e3:.1f} / "
            f"{percentile(seen.gaps_s, 0.99) * 1e3:.0f} | {seen.good_count} | {len(seen.failed)} |",
            flush=True,
        )
    return texts


def main() -> None:
    """Measure both clusters and compare their texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each phase (default: 30)")
    parser.add_argument("--rate", type=float, default=4.0, help="calls per second (default: 4)")
    arguments = parser.parse_args()
    print("| phase | workers | calls | TTFT mean / p95, ms | ITL mean / p99, ms | good | failed |")
    print("|---|---|---|---|---|---|---|", flush=True)
    texts: list[dict[int, str]] = []
    for name, (prefill, decode, both) in CLUSTERS.items():
        settings = ClusterSettings(vllm=vllm(), router=TARGETS)
        pools = msgspec.structs.replace(settings.pools, prefill=prefill, decode=decode, both=both)
        settings = msgspec.structs.replace(settings, pools=pools)
        with tempfile.TemporaryDirectory() as folder, open_cluster(settings, Path(folder)) as cluster:
            texts.append(asyncio.run(measure(cluster, name, arguments.seconds, arguments.rate)))
    one, other = texts
    same = sum(one[number] == other.get(number) for number in one)
    print(f"\n{same} of {len(one)} texts are the same in both clusters")


if __name__ == "__main__":
    main()
