"""A worker that has just claimed a prompt takes another one along: the stall that both share comes anyway."""

import asyncio
from dataclasses import replace

from services.bus.memory import MemoryBus
from services.bus.port import QueueView
from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.ids import GatewayId, TaskId
from services.domain.placement import PathPreference
from services.domain.request import Sampling
from services.domain.slo import Slo
from services.domain.task import PrefillTask, TaskRecord
from services.domain.worker import Phase
from services.runtime.clock import run_virtual
from tests.cluster.test_requests_in_process import request, tokens_of

SLO = Slo(ttft_s=2.0, tpot_s=0.025)
LATER_S = 0.1
"""How long after the first prompt the second one arrives."""


async def enqueue(bus: MemoryBus, name: str, tokens: int) -> None:
    """Put a prompt in the queue, for a gateway that the worker is linked to."""
    record = TaskRecord(
        task_id=TaskId(name),
        gateway_id=GatewayId("gateway-0"),
        model=MODEL,
        priority=0,
        prompt_tokens=tokens,
        marks=(),
        deadline_s=None,
        ttft_target_s=SLO.ttft_s,
        slo=SLO,
    )
    await bus.queue.enqueue(PrefillTask(record=record, request=request(name, tokens)))


async def claimed_at_s(view: QueueView, names: set[str]) -> dict[str, float]:
    """Wait until all of these are claimed, and say when each was, by the loop's clock."""
    found: dict[str, float] = {}
    while names - found.keys():
        await view.changed(0.001)
        for queued in view.tasks():
            if queued.claim is not None:
                found.setdefault(queued.record.task_id, asyncio.get_running_loop().time())
    return found


def claims(first_tokens: int, second_tokens: int) -> tuple[float, float]:
    """Let one worker decode, then offer it two prompts; say how long each waited for its claim, s."""
    waits_s: list[float] = []

    async def main() -> None:
        cluster = InProcessCluster({"soft": (Phase.DECODE, Phase.PREFILL)})
        await cluster.start()
        bus, loop = MemoryBus(cluster.broker, "test"), asyncio.get_running_loop()
        asked = request("decoding")
        asked = replace(asked, sampling=Sampling(max_tokens=200, temperature=0.0, ignore_eos=True))
        decoding = asyncio.ensure_future(
            tokens_of(cluster.gateways[0], asked, preference=PathPreference.LOCAL)
        )
        try:
            await asyncio.sleep(0.1)
            async with bus.queue.view() as view:
                begin_s = loop.time()
                watch = asyncio.ensure_future(claimed_at_s(view, {"first", "second"}))
                await enqueue(bus, "first", first_tokens)
                await asyncio.sleep(LATER_S)
                await enqueue(bus, "second", second_tokens)
                found = await watch
                waits_s.extend((found["first"] - begin_s, found["second"] - begin_s - LATER_S))
            await decoding
        finally:
            await cluster.stop()

    run_virtual(main())
    return waits_s[0], waits_s[1]


def test_a_prompt_that_fits_the_step_comes_along() -> None:
    """The first is left to others for its price; the second is claimed with it, long before its own."""
    first_s, second_s = claims(1000, 1000)
    assert first_s > LATER_S  # somebody is stalled, so that there is a price
    assert abs(LATER_S + second_s - first_s) < 0.005


def test_one_that_does_not_fit_waits_for_its_own_price() -> None:
    """A stall more is a stall to be paid."""
    first_s, second_s = claims(1000, 8000)
    assert LATER_S + second_s > first_s + 0.03
