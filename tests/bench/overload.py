"""A load on a cluster in one event loop: what arrives, what becomes of it, and what it was worth.

Comes in: a rate, an admission policy, a seed. Goes out: counts and lengths. On the virtual clock equal
inputs give equal results, so a small one is part of the test suite and the large one a benchmark.
Goodput here is what its clients wanted: the whole answer within its deadline, with the first token within
the router's TTFT target and a mean time per token within its TPOT target.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.blocks import CacheScope
from services.domain.errors import ServingError
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import FinishReason
from services.domain.worker import Phase
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.conductor import Conductor
from services.gateway.port import ServeOptions
from services.router.settings import RouterSettings
from services.runtime.clock import run_virtual

WATCH_S = 0.05
"""Time between two looks at queue lengths."""
SCATTER_S = 0.3
"""Mean time for which an engine is as slow as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What arrives.

    Attributes:
        rate_per_s: of arrivals; they come at random (exponential gaps).
        seconds: for how long.
        warm_up_s: leading time whose requests are served and not counted.
        deadline_s: of interactive requests.
        batch_frac: share of batch requests, of priority 1.
        batch_deadline_s: of these.
        prompt_tokens: shortest and longest prompt; log-uniform between.
        output_tokens_max: limit of each output; the model ends most before.
        seed: of all that is random.
    """

    rate_per_s: float
    seconds: float
    warm_up_s: float = 10.0
    deadline_s: float = 10.0
    batch_frac: float = 0.0
    batch_deadline_s: float = 60.0
    prompt_tokens: tuple[int, int] = (500, 8000)
    output_tokens_max: int = 600
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Who serves."""

    prefill: int = 2
    decode: int = 2
    engine: SimulatedSettings = field(default_factory=SimulatedSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    scatter: float = 0.0
    """Standard deviation of the logarithm of how slow each engine is, drawn anew about every `SCATTER_S`: a
    real engine takes now more, now less than was predicted."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a load; counts are of requests that arrived after the warm-up."""

    seconds: float
    offered: Counter[str] = field(default_factory=Counter)
    """By class of work."""
    ended: Counter[str] = field(default_factory=Counter)
    """By how: ok, or the code of the error."""
    in_time: Counter[str] = field(default_factory=Counter)
    """By class: whole answers within their deadline."""
    good: Counter[str] = field(default_factory=Counter)
    """By class: those that met both targets as well."""
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    """By class: time to the first token of whole answers."""
    refusals_s: list[float] = field(default_factory=list)
    """Time until a refusal was told."""
    queues: list[int] = field(default_factory=list)
    """Tasks in the prefill queue and requests in the waiting room, sampled."""
    wasted_tokens: int = 0
    """Written for answers that were then given up."""
    leftovers: dict[str, int] = field(default_factory=dict)

    def in_time_per_s(self) -> float:
        """Whole answers within their deadline, per second."""
        return sum(self.in_time.values()) / self.seconds

    def goodput_per_s(self) -> float:
        """Answers that met every target, per second."""
        return sum(self.good.values()) / self.seconds

    def refused_count(self) -> int:
        """Requests that were told at once, or before any work, that and when to come back."""
        return self.ended["saturated"] + self.ended["deadline_unmeetable"]


def percentile(values: Sequence[float], frac: float) -> float:
    """Nearest-rank percentile; 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(frac * len(values)))] if values else 0.0


def measure_capacity(load: Load, fleet: Fleet, *, clients: int = 256) -> float:
    """Answers per second while so many clients ask one thing after another and nothing is refused."""
    return run_virtual(_measure(load, fleet, clients))


async def _measure(load: Load, fleet: Fleet, clients: int) -> float:
    router = msgspec.structs.replace(fleet.router, early_rejection=False)
    cluster = await _start(replace(fleet, router=router))
    done_count = 0
    rng = random.Random(load.seed)
    numbers = itertools.count()

    async def ask_on() -> None:
        nonlocal done_count
        while True:
            asked = _request(next(numbers), load, rng, batch=False)
            async for delta in cluster.gateways[0].generate(asked, ServeOptions(deadline_s=None)):
                done_count += delta.finish is not None

    asking = [asyncio.ensure_future(ask_on()) for _ in range(clients)]
    try:
        await asyncio.sleep(load.warm_up_s)
        before = done_count
        await asyncio.sleep(load.seconds)
        return (done_count - before) / load.seconds
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await cluster.stop()


async def _start(fleet: Fleet) -> InProcessCluster:
    names = {f"prefill-{i}": (Phase.PREFILL,) for i in range(fleet.prefill)}
    names |= {f"decode-{i}": (Phase.DECODE,) for i in range(fleet.decode)}
    cluster = InProcessCluster(names, engine=fleet.engine, router=fleet.router)
    await cluster.start()
    return cluster


def play(load: Load, fleet: Fleet) -> Outcome:
    """Run a load on a virtual clock."""
    return run_virtual(_play(load, fleet))


async def _play(load: Load, fleet: Fleet) -> Outcome:
    cluster = await _start(fleet)
    outcome = Outcome(seconds=load.seconds)
    beside = [asyncio.ensure_future(_watch(cluster, outcome))]
    if fleet.scatter:
        beside.append(asyncio.ensure_future(_scatter(cluster, fleet.scatter, random.Random(load.seed))))
    try:
        async with asyncio.TaskGroup() as group:
            rng = random.Random(load.seed)
            for number in range(round(load.rate_per_s * (load.warm_up_s + load.seconds))):
                await asyncio.sleep(rng.expovariate(load.rate_per_s))
                batch = rng.random() < load.batch_frac
                asked = _request(number, load, rng, batch=batch)
                counted = number >= load.rate_per_s * load.warm_up_s
                noted = outcome if counted else None
                group.create_task(_ask(cluster.gateways[0], asked, load, fleet.router, noted))
        await asyncio.sleep(1.0)
        outcome.leftovers = {name: count for name, count in cluster.leftovers().items() if count}
    finally:
        for task in beside:
            task.cancel()
        await cluster.stop()
    return outcome


async def _scatter(cluster: InProcessCluster, scatter: float, rng: random.Random) -> None:
    """Let engines be now slower, now faster, as predicted on average."""
    while True:
        for engine in cluster.engines.values():
            engine.slow_down(rng.lognormvariate(-(scatter**2) / 2, scatter))
        await asyncio.sleep(rng.expovariate(1 / SCATTER_S))


def _request(number: int, load: Load, rng: random.Random, *, batch: bool) -> InferenceRequest:
    low, high = load.prompt_tokens
    tokens = round(low * (high / low) ** rng.random())
    first = 261 + rng.randrange(3000)
    return InferenceRequest(
        request_id=RequestId(f"r{number}"),
        scope=CacheScope(model=MODEL, salt=str(number)),
        prompt_token_ids=(first,) * tokens,
        sampling=Sampling(max_tokens=load.output_tokens_max, temperature=0.0),
        priority=1 if batch else 0,
    )


async def _watch(cluster: InProcessCluster, outcome: Outcome) -> None:
    while True:
        await asyncio.sleep(WATCH_S)
        state = cluster.gateways[0].cluster()
        outcome.queues.append(state.queue_waiting_count + state.waiting_count)


async def _ask(
    gateway: Conductor, asked: InferenceRequest, load: Load, targets: RouterSettings, outcome: Outcome | None
) -> None:
    """Serve one request and note what became of it; nothing is noted without an outcome."""
    kind = "batch" if asked.priority else "interactive"
    deadline_s = load.batch_deadline_s if asked.priority else load.deadline_s
    loop = asyncio.get_running_loop()
    at_s = loop.time()
    first_s = last_s = 0.0
    tokens = 0
    end = "lost"
    try:
        async for delta in gateway.generate(asked, ServeOptions(deadline_s=deadline_s)):
            if delta.token_ids:
                last_s = loop.time() - at_s
                first_s = first_s or last_s
                tokens += len(delta.token_ids)
            if delta.finish in (FinishReason.STOP, FinishReason.LENGTH):
                end = "ok"
            elif delta.error is not None:
                end = delta.error.code
    except ServingError as error:
        end = error.code
    if outcome is None:
        return
    outcome.offered[kind] += 1
    outcome.ended[end] += 1
    if end != "ok":
        outcome.wasted_tokens += tokens
        if not tokens:
            outcome.refusals_s.append(loop.time() - at_s)
        return
    outcome.waits_s.setdefault(kind, []).append(first_s)
    if last_s <= deadline_s:
        outcome.in_time[kind] += 1
        tpot_s = (last_s - first_s) / (tokens - 1) if tokens > 1 else 0.0
        if first_s <= targets.ttft_target_s and tpot_s <= targets.tpot_target_s:
            outcome.good[kind] += 1
