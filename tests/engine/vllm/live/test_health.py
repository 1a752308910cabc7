"""A real engine that hangs is found within its setting, given up, and ended with its process."""

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from services.bus.memory import MemoryBroker, MemoryBus
from services.domain.errors import EngineFailed
from services.domain.ids import WorkerId
from services.domain.stream import FinishReason
from services.engine.port import DecodeJob
from services.engine.vllm.adapter import VllmEngine
from services.link.memory import MemoryLinkServer, MemoryNetwork
from services.runtime.clock import LoopClock
from services.runtime.metrics import Meters
from services.worker.settings import WorkerSettings
from services.worker.worker import Worker
from tests.engine.bench import Pair, started
from tests.engine.vllm.live.rig import DEADLINE_S, MODEL, VllmRig, engine_pid, settings

pytestmark = [pytest.mark.live, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

HEALTH_TIMEOUT_S = 2.0
HEALTH_PERIOD_S = 0.25
SLACK_S = 5.0
"""For a machine that does other things too."""
STOP_S = 10.0
"""For the end of an engine that was given up: nothing waits for its answers."""


async def until_gone(pid: int) -> None:
    """Wait until a child of this process ended; whether somebody has collected it yet does not matter."""
    with suppress(ChildProcessError):
        await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_stopped_engine_is_found_and_ended(rig: VllmRig) -> None:
    """While its process is stopped in the middle of work, a health check fails in time and all jobs end."""

    async def scenario(_: Pair) -> None:
        engine = VllmEngine(settings(1, health_timeout_s=HEALTH_TIMEOUT_S), worker_id=WorkerId("hung"))
        try:
            station = await started(engine, DEADLINE_S)
            request = rig.request(40, max_tokens=1500)
            engine.submit(DecodeJob(request=request))
            await station.spoken(request.request_id, 3)
            pid = engine_pid(engine)
            os.kill(pid, signal.SIGSTOP)
            async with asyncio.timeout(HEALTH_TIMEOUT_S + SLACK_S):
                with pytest.raises(EngineFailed):
                    await engine.check_health()
            final = await station.end_of(request.request_id)
            assert final.finish is FinishReason.ERROR
            assert isinstance(final.error, EngineFailed)
            late = rig.request(10)
            engine.submit(DecodeJob(request=late))
            assert isinstance((await station.end_of(late.request_id)).error, EngineFailed)
        finally:
            async with asyncio.timeout(STOP_S):
                await engine.stop()
        async with asyncio.timeout(SLACK_S):
            await until_gone(pid)

    rig.run(scenario)


def test_a_worker_whose_engine_hangs_declares_itself_failed(rig: VllmRig) -> None:
    """The worker's own watch finds the stopped engine within its settings; its process exits with 1 then."""

    async def scenario(_: Pair) -> None:
        engine = VllmEngine(
            settings(1, health_timeout_s=HEALTH_TIMEOUT_S, kv_events=False), worker_id=WorkerId("hung")
        )
        worker = Worker(
            WorkerSettings(
                worker_id="hung",
                model=MODEL,
                engine=settings(1),
                warm_up_tokens=0,
                health_period_s=HEALTH_PERIOD_S,
            ),
            engine,
            MemoryBus(MemoryBroker(), "hung"),
            MemoryLinkServer(MemoryNetwork(), "hung"),
            clock=LoopClock(),
            meters=Meters(),
        )
        try:
            await worker.start()
            assert not worker.failed.is_set()
            os.kill(engine_pid(engine), signal.SIGSTOP)
            async with asyncio.timeout(HEALTH_PERIOD_S + HEALTH_TIMEOUT_S + SLACK_S):
                await worker.failed.wait()
        finally:
            async with asyncio.timeout(STOP_S):
                await worker.stop()

    rig.run(scenario)
