"""NATS goes away and comes back, with and without its memory."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.bus.embedded import EmbeddedNats
from services.bus.nats import NatsBus, connect
from services.bus.port import WorkerLeft
from services.bus.settings import BusLimits, BusSettings, EmbeddedSettings
from services.domain.errors import BusUnavailable
from services.domain.ids import TaskId, WorkerId
from tests.bus.samples import DEADLINE_S, batch, first, left, seen, status, take, task, until, until_change

WORKER = WorkerId("worker-1")


class Server:
    """A server on one port that can crash and come back."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = folder
        self._lives = 0
        self._server: EmbeddedNats | None = None

    async def start(self, *, keep: bool) -> str:
        """Start, with the former disk or an empty one."""
        self._lives += not keep
        settings = EmbeddedSettings(port=self.port, store_dir=str(self._folder / str(self._lives)))
        self._server = EmbeddedNats(settings)
        return await self._server.start()

    async def crash(self) -> None:
        """End at once, as kill -9 does."""
        if self._server is not None:
            if self._server.pid is not None:
                os.kill(self._server.pid, 9)
            await self._server.stop()
            self._server = None


@asynccontextmanager
async def outage(folder: Path, *names: str) -> AsyncIterator[tuple[Server, list[NatsBus], list[str]]]:
    """A server, clients of it, and what they dropped."""
    server = Server(folder)
    url = await server.start(keep=False)
    settings = BusSettings(
        url=url,
        request_timeout_s=1.0,
        heartbeat_s=0.3,
        reconnect_wait_max_s=0.2,
        limits=BusLimits(claim_ttl_s=2.0),
    )
    dropped: list[str] = []
    buses = [await connect(settings, name=name, on_drop=dropped.append) for name in names]
    try:
        yield server, buses, dropped
    finally:
        for bus in buses:
            await bus.close()
        await server.crash()


async def until_away(bus: NatsBus) -> None:
    """Wait until a bus notices that its server died: as soon as its socket is read."""
    async with asyncio.timeout(DEADLINE_S):
        while bus.connected:  # noqa: ASYNC110 - the bus tells of its return only
            await asyncio.sleep(0)


async def until_back(*buses: NatsBus) -> None:
    """Wait until all are connected again."""
    for bus in buses:
        back = asyncio.Event()
        forget = bus._connection.on_reconnect(back.set)
        async with asyncio.timeout(DEADLINE_S):
            if not bus.connected:
                await back.wait()
        forget()


async def test_while_nats_is_away_requests_fail_in_time_and_events_are_dropped(tmp_path: Path) -> None:
    """Nothing waits for ever and nothing is kept to be sent later; views stay readable."""
    async with outage(tmp_path, "worker") as (server, (bus,), dropped):
        await bus.queue.enqueue(task("t"))
        async with bus.queue.view() as view:
            queued = await first(view)
            claimed = await bus.queue.claim(queued, WORKER)
            assert claimed is not None
            await server.crash()
            await until_away(bus)
            for call in (
                bus.queue.enqueue(task("x")),
                bus.queue.claim(queued, WORKER),
                bus.queue.renew(claimed),
                bus.queue.complete(claimed),
                bus.queue.cancel(TaskId("t")),
                bus.queue.waiting_count(),
                bus.announce(status("w"), ttl_s=1),
                bus.withdraw(WorkerId("w")),
            ):
                with pytest.raises(BusUnavailable):
                    async with asyncio.timeout(DEADLINE_S):
                        await call
            with pytest.raises(BusUnavailable):
                async with bus.queue.view():
                    pytest.fail("a view of nothing")
            await bus.publish_kv(batch("w", 1))
            assert dropped == ["kv_publish"]
            assert [t.record.task_id for t in view.tasks()] == ["t"]


async def test_a_request_under_way_when_nats_dies_fails_in_time(tmp_path: Path) -> None:
    """Requests that lose their answer end as unavailable, not as silence."""
    async with outage(tmp_path, "gateway") as (server, (bus,), _):
        await bus.queue.waiting_count()
        under_way = [asyncio.create_task(bus.queue.enqueue(task(f"t{n}"))) for n in range(64)]
        await server.crash()
        async with asyncio.timeout(DEADLINE_S):
            outcomes = await asyncio.gather(*under_way, return_exceptions=True)
        assert all(o is None or isinstance(o, BusUnavailable) for o in outcomes)


async def test_after_a_restart_with_its_disk_everything_goes_on(tmp_path: Path) -> None:
    """Claims, views and watches survive a server that comes back with its queue."""
    async with outage(tmp_path, "gateway", "worker") as (server, (gateway, worker), _):
        await gateway.queue.enqueue(task("held"))
        async with worker.queue.view() as view, gateway.watch_kv() as batches:
            removed: list[str] = []
            view.on_removed(removed.append)
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            await gateway.queue.enqueue(task("waiting"))
            await until(view, lambda tasks: len(tasks) == 2)
            await server.crash()
            await until_away(worker)
            await server.start(keep=True)
            await until_back(worker, gateway)
            renewed = await worker.queue.renew(claimed)
            assert renewed is not None
            assert await worker.queue.complete(renewed)
            await gateway.queue.enqueue(task("new"))
            tasks = await until(view, lambda tasks: {t.record.task_id for t in tasks} == {"waiting", "new"})
            assert removed == ["held"]
            assert await worker.queue.claim(tasks[0], WORKER) is not None
            async with asyncio.timeout(DEADLINE_S):
                await worker.publish_kv(batch("w", 1))
                assert await take(batches, 1) == [batch("w", 1)]


async def test_a_server_that_lost_everything_is_filled_again(tmp_path: Path) -> None:
    """Streams come back, lost tasks are told as removed, only a worker that does not renew leaves."""
    async with outage(tmp_path, "gateway", "worker") as (server, (gateway, worker), _):
        await gateway.queue.enqueue(task("lost"))
        async with gateway.queue.view() as view, gateway.watch_fleet() as changes:
            removed: list[str] = []
            view.on_removed(removed.append)
            await worker.announce(status("lively"), ttl_s=4)
            await worker.announce(status("silent"), ttl_s=4)
            await take(changes, 2)
            await server.crash()
            await until_away(worker)
            await server.start(keep=False)
            await until_back(worker)
            await worker.announce(status("lively", sequence=2), ttl_s=60)
            read = await until_change(changes, left("silent"))
            assert seen("lively", 2) in read
            assert WorkerLeft(worker_id=WorkerId("lively")) not in read
            await until(view, lambda tasks: not tasks)
            assert removed == ["lost"]
            await gateway.queue.enqueue(task("after"))
            queued = await first(view)
            assert queued.record.task_id == "after"
            claimed = await worker.queue.claim(queued, WORKER)
            assert claimed is not None
            assert await worker.queue.complete(claimed)


async def test_removals_during_an_outage_of_the_watcher_are_told(tmp_path: Path) -> None:
    """A watcher that missed messages reads the whole state again and tells the difference."""
    async with (
        outage(tmp_path, "gateway", "worker") as (_, (gateway, worker), _dropped),
        worker.queue.view() as view,
        worker.watch_fleet() as changes,
    ):
        removed: list[str] = []
        view.on_removed(removed.append)
        for name in ("a", "b"):
            await gateway.queue.enqueue(task(name))
            await gateway.announce(status(name), ttl_s=60)
        await until(view, lambda tasks: len(tasks) == 2)
        await take(changes, 2)
        # The connection breaks under the watcher; what it missed is in no buffer.
        await worker._connection.client._process_op_err(ConnectionResetError())
        await gateway.queue.cancel(TaskId("a"))
        await gateway.queue.enqueue(task("c"))
        await gateway.withdraw(WorkerId("a"))
        await until_back(worker)
        await until(view, lambda tasks: {t.record.task_id for t in tasks} == {"b", "c"})
        assert removed == ["a"]
        assert left("a") in await until_change(changes, left("a"))


async def test_a_silent_watch_is_opened_anew(tmp_path: Path) -> None:
    """When the server forgets a watch, missing signs of life bring it back with all that was missed."""
    async with (
        outage(tmp_path, "gateway", "worker") as (_, (gateway, worker), _dropped),
        worker.queue.view() as view,
    ):
        stream = gateway.queue._subjects.records_stream
        jetstream = gateway._connection.jetstream
        for consumer in await jetstream.consumers_info(stream):
            await jetstream.delete_consumer(stream, consumer.name)
        await gateway.queue.enqueue(task("missed"))
        assert (await first(view)).record.task_id == "missed"
