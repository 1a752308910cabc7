"""Measure the prefill queue: claims by compare-and-set against a plain FIFO work queue.

It starts its own server on loopback. Figures are milliseconds of one run on the machine at hand; the
variants take turns block by block, so that they meet the same noise: compare ratios. Gateway and workers
share one process, so that many workers also cost each other its time; the counts of claims do not depend
on that. What follows from them: `docs/decisions/0002-prefill-queue-claims.md`.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from services.bus.embedded import EmbeddedNats
from services.bus.nats import NatsBus, connect
from services.bus.port import QueueView
from services.bus.settings import BusSettings
from services.domain.blocks import CacheScope, hash_blocks
from services.domain.ids import GatewayId, RequestId, TaskId, WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.domain.task import ClaimedTask, PrefillTask, QueuedTask, TaskRecord, mark_prefix
from services.wire.codec import decode_request, encode_request

PROMPT_TOKENS = 1024
STAGGER_S = 0.002
BLOCKS = 5
WAIT_S = 10.0


def task(name: str) -> PrefillTask:
    """A task with a prompt of PROMPT_TOKENS and all the marks that a record may carry."""
    scope = CacheScope(model="stories")
    prompt = tuple(i % 4096 for i in range(PROMPT_TOKENS))
    return PrefillTask(
        record=TaskRecord(
            task_id=TaskId(name),
            gateway_id=GatewayId("gateway"),
            model=scope.model,
            priority=0,
            prompt_tokens=PROMPT_TOKENS,
            marks=mark_prefix(hash_blocks(prompt, block_size_tokens=16, scope=scope)),
            deadline_s=60.0,
            ttft_target_s=2.0,
        ),
        request=InferenceRequest(
            request_id=RequestId(name),
            scope=scope,
            prompt_token_ids=prompt,
            sampling=Sampling(max_tokens=32),
        ),
    )


@dataclass
class Series:
    """Durations of one thing, seconds."""

    values_s: list[float] = field(default_factory=list)

    def text(self) -> str:
        """10th percentile (the least disturbed by other programs), median, 99th percentile, count."""
        ordered = sorted(self.values_s)
        if not ordered:
            return "-"
        last = len(ordered) - 1
        p10, p50, p99 = (ordered[min(last, int(len(ordered) * q))] * 1e3 for q in (0.1, 0.5, 0.99))
        return f"p10 {p10:6.2f}  p50 {p50:6.2f}  p99 {p99:7.2f}  ({len(ordered)})"


@dataclass
class Outcome:
    """What one variant cost."""

    enqueue: Series = field(default_factory=Series)
    """Call to return of enqueue."""
    total: Series = field(default_factory=Series)
    """Call of enqueue to the body in the winner's hands."""
    claim: Series = field(default_factory=Series)
    """Sight to body, for the winner."""
    complete: Series = field(default_factory=Series)
    requests: int = 0
    """Claims sent to the server."""
    lost: int = 0
    """Claims sent in vain."""


class Fifo:
    """The plain way: a work queue that hands the oldest task to whoever asks."""

    def __init__(self, bus: NatsBus, claimant: NatsBus) -> None:
        self._jetstream = bus._connection.jetstream
        self._claimant = claimant._connection.jetstream

    async def open(self) -> None:
        """Create the stream and its one consumer."""
        await self._jetstream.add_stream(
            StreamConfig(
                name="fifo",
                subjects=["fifo.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
            )
        )
        self.pull = await self._claimant.pull_subscribe("fifo.*", durable="fifo")

    async def once(self, number: int, outcome: Outcome) -> None:
        """One task through: the claimant is waiting when it is enqueued."""
        waiting = asyncio.create_task(self.pull.fetch(1, timeout=WAIT_S))
        await asyncio.sleep(0.002)  # so that the pull waits at the server
        body = encode_request(task(f"f{number}").request)
        started_s = perf_counter()
        await self._jetstream.publish("fifo.task", body)
        outcome.enqueue.values_s.append(perf_counter() - started_s)
        message = (await waiting)[0]
        decode_request(message.data)
        outcome.total.values_s.append(perf_counter() - started_s)
        done_s = perf_counter()
        await message.ack_sync()
        outcome.complete.values_s.append(perf_counter() - done_s)


class Race:
    """Idle workers that all see a task and claim it; with a stagger, worker n waits n steps first."""

    def __init__(self, gateway: NatsBus, workers: list[tuple[NatsBus, QueueView]], stagger_s: float) -> None:
        self._gateway = gateway
        self._workers = workers
        self._stagger_s = stagger_s

    async def once(self, number: int, outcome: Outcome) -> None:
        """One task through: exactly one worker gets it."""
        wanted = task(f"r{len(self._workers)}-{self._stagger_s}-{number}")
        claims = [
            asyncio.create_task(self._claim(rank, wanted, outcome)) for rank in range(len(self._workers))
        ]
        await asyncio.sleep(0)
        started_s = perf_counter()
        await self._gateway.queue.enqueue(wanted)
        outcome.enqueue.values_s.append(perf_counter() - started_s)
        won = [c for c in await asyncio.gather(*claims) if c is not None]
        assert len(won) == 1, f"{len(won)} winners"
        ended_s, claimed = won[0]
        outcome.total.values_s.append(ended_s - started_s)
        done_s = perf_counter()
        assert await self._gateway.queue.complete(claimed)
        outcome.complete.values_s.append(perf_counter() - done_s)
        for _, view in self._workers:
            while view.get(wanted.record.task_id) is not None:
                await view.changed(WAIT_S)

    async def _claim(
        self, rank: int, wanted: PrefillTask, outcome: Outcome
    ) -> tuple[float, ClaimedTask] | None:
        bus, view = self._workers[rank]
        queued = await self._sight(view, wanted)
        seen_s = perf_counter()
        if rank and self._stagger_s:
            await asyncio.sleep(rank * self._stagger_s)
        newest = view.get(wanted.record.task_id)
        if newest is None or newest.claim is not None or newest.revision != queued.revision:
            return None
        outcome.requests += 1
        claimed = await bus.queue.claim(newest, WorkerId(f"worker-{rank}"))
        ended_s = perf_counter()
        if claimed is None:
            outcome.lost += 1
            return None
        outcome.claim.values_s.append(ended_s - seen_s)
        return ended_s, claimed

    async def _sight(self, view: QueueView, wanted: PrefillTask) -> QueuedTask:
        while (queued := view.get(wanted.record.task_id)) is None:
            await view.changed(WAIT_S)
        return queued


@asynccontextmanager
async def cluster(workers_max: int, *, in_memory: bool) -> AsyncIterator[tuple[NatsBus, list[NatsBus]]]:
    """A server, a gateway's bus and the workers' buses."""
    server = EmbeddedNats()
    settings = BusSettings(url=await server.start(), queue_in_memory=in_memory)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        buses = []
        for number in range(workers_max + 1):
            buses.append(await connect(settings, name=f"bench-{number}"))
            stack.push_async_callback(buses[-1].close)
        yield buses[0], buses[1:]


async def measure(rounds: int, *, in_memory: bool) -> dict[str, Outcome]:
    """Play every variant `rounds` times, in turn."""
    async with cluster(16, in_memory=in_memory) as (gateway, buses):
        fifo = Fifo(gateway, buses[0])
        await fifo.open()
        outcomes: dict[str, Outcome] = {"FIFO work queue": Outcome()}
        for block in range(BLOCKS):
            numbers = range(block * rounds // BLOCKS, (block + 1) * rounds // BLOCKS)
            for number in numbers:
                await fifo.once(number, outcomes["FIFO work queue"])
            for count in (1, 4, 16):
                async with AsyncExitStack() as stack:
                    workers = [(b, await stack.enter_async_context(b.queue.view())) for b in buses[:count]]
                    for stagger_s in (0.0,) if count == 1 else (0.0, STAGGER_S):
                        staggered = f", staggered {stagger_s * 1e3:.0f} ms" if stagger_s else ""
                        outcome = outcomes.setdefault(f"claims, {count} idle{staggered}", Outcome())
                        race = Race(gateway, workers, stagger_s)
                        for number in numbers:
                            await race.once(number, outcome)
        return outcomes


def report(title: str, outcomes: dict[str, Outcome]) -> None:
    """Print a table."""
    print(f"\n{title}: ms, prompt of {PROMPT_TOKENS} tokens, load average {os.getloadavg()[0]:.1f}")
    for name, o in outcomes.items():
        print(f"  {name}")
        print(f"    enqueue call          {o.enqueue.text()}")
        print(f"    enqueue to claimed    {o.total.text()}")
        if o.requests:
            print(f"    sight to claimed      {o.claim.text()}")
            per_task = o.requests / max(1, len(o.total.values_s))
            print(f"    claims sent per task  {per_task:.2f}, in vain {o.lost / max(1, o.requests):.0%}")
        print(f"    complete              {o.complete.text()}")


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description="Measure the prefill queue.")
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    for title, in_memory in (("queue on disk", False), ("queue in memory", True)):
        report(title, asyncio.run(measure(rounds, in_memory=in_memory)))


if __name__ == "__main__":
    main()
