"""A replica's process: ready when it serves, unhealthy when it died, drained when it is to go."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.bus.embedded import EmbeddedNats
from services.cluster.local import model_facts
from services.cluster.plan import ProcessSpec
from services.cluster.ray.plan import Place, worker_process
from services.cluster.ray.replica_process import ReplicaProcess
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings, EngineKind, NatsSettings
from services.cluster.supervision import SupervisionSettings
from services.domain.errors import EngineFailed
from tests.live.cluster import DEADLINE_S, POLL_S
from tests.live.processes import naming


@pytest.fixture
async def nats_url() -> AsyncIterator[str]:
    """A real NATS."""
    nats = EmbeddedNats()
    yield await nats.start()
    await nats.stop()


def spec(folder: Path, nats_url: str) -> ProcessSpec:
    """A worker with a simulated engine."""
    settings = ClusterSettings(engine=EngineKind.SIMULATED, nats=NatsSettings(url=nats_url))
    where = Place(
        replica_id="abc", host="127.0.0.1", rank=0, cores=(), folder=str(folder), parent_pid=os.getpid()
    )
    return worker_process(settings, Part.DECODE, where, model=model_facts(settings))


async def checks_until_missed(process: ReplicaProcess) -> None:
    """Check again and again, since the end of a process is told a moment after it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await process.check()
            await asyncio.sleep(POLL_S)


async def test_a_worker_serves_is_missed_and_leaves_nothing(tmp_path: Path, nats_url: str) -> None:
    """Checks pass while it lives; the one after its death fails and says how its log ended."""
    process = ReplicaProcess(spec(tmp_path, nats_url), tmp_path, SupervisionSettings())
    await process.start(DEADLINE_S)
    assert process.ports
    await process.check()
    (pid,) = naming(str(tmp_path))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineFailed, match=r"(?s)decode-abc ended with exit code -9.*ready \(pid"):
        await checks_until_missed(process)
    await process.end(0.0)


async def test_a_worker_that_is_to_go_drains(tmp_path: Path, nats_url: str) -> None:
    """It ends by itself, in order."""
    process = ReplicaProcess(spec(tmp_path, nats_url), tmp_path, SupervisionSettings())
    await process.start(DEADLINE_S)
    await process.end(DEADLINE_S)
    assert not naming(str(tmp_path))
    assert process.log_file.read_text(encoding="utf-8").rstrip().endswith("stopped")


async def test_a_worker_that_cannot_start_says_why(tmp_path: Path, nats_url: str) -> None:
    """The end of its log is in the message, and nothing of it is left."""
    wrong = replace(spec(tmp_path, nats_url), settings=b'{"worker": []}')
    process = ReplicaProcess(wrong, tmp_path, SupervisionSettings())
    with pytest.raises(
        EngineFailed, match=r"(?s)decode-abc ended with exit code 2; its log .* ends:.*worker"
    ):
        await process.start(DEADLINE_S)
    assert not naming(str(tmp_path))
    await process.end(0.0)
