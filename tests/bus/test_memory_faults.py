"""The memory bus under faults: what a simulation may do to it, and what it must still keep."""

import asyncio

import pytest

from services.bus.memory import Delivery, MemoryBroker, MemoryBus
from services.bus.settings import BusLimits
from services.domain.blocks import KvEventBatch
from services.domain.errors import BusUnavailable
from services.domain.ids import WorkerId
from services.runtime.clock import run_virtual
from tests.bus.samples import batch, first, left, seen, status, take, task, until_empty

WORKER = WorkerId("worker-1")


def test_a_client_that_is_cut_off_fails_at_once_and_catches_up() -> None:
    """Behind a partition nothing has effect; when it heals, views and watches show the present."""

    async def story() -> None:
        broker = MemoryBroker()
        dropped: list[str] = []
        gateway, worker = MemoryBus(broker, "gateway"), MemoryBus(broker, "worker", dropped.append)
        async with worker.queue.view() as view, worker.watch_fleet() as changes:
            await gateway.queue.enqueue(task("old"))
            await gateway.announce(status("w"), ttl_s=100)
            queued = await first(view)
            broker.partition("worker", cut=True)
            assert not worker.connected
            for call in (
                worker.queue.enqueue(task("x")),
                worker.queue.claim(queued, WORKER),
                worker.queue.waiting_count(),
                worker.announce(status("x"), ttl_s=1),
            ):
                with pytest.raises(BusUnavailable):
                    await call
            await worker.publish_kv(batch("w", 1))
            assert dropped == ["kv_publish"]
            await gateway.queue.cancel(queued.record.task_id)
            await gateway.queue.enqueue(task("new"))
            await gateway.withdraw(WorkerId("w"))
            await gateway.announce(status("v"), ttl_s=100)
            assert [t.record.task_id for t in view.tasks()] == ["old"]
            broker.partition("worker", cut=False)
            assert [t.record.task_id for t in view.tasks()] == ["new"]
            assert await take(changes, 2) == [left("w"), seen("v")]

    run_virtual(story())


def test_a_claim_ends_behind_a_partition_by_the_readers_clock() -> None:
    """A reader that hears nothing lets a claim lapse; its claim against the old revision fails."""

    async def story() -> None:
        broker = MemoryBroker(BusLimits(claim_ttl_s=5))
        one, two = MemoryBus(broker, "one"), MemoryBus(broker, "two")
        await one.queue.enqueue(task("t"))
        async with one.queue.view() as view, two.queue.view() as cut_view:
            claimed = await one.queue.claim(await first(view), WORKER)
            assert claimed is not None
            broker.partition("two", cut=True)
            for _ in range(3):
                await asyncio.sleep(2)
                claimed = await one.queue.renew(claimed)
                assert claimed is not None
            stale = await first(cut_view)
            broker.partition("two", cut=False)
            assert cut_view.tasks()[0].claim is not None
            assert await two.queue.claim(stale, WorkerId("worker-2")) is None

    run_virtual(story())


def test_a_lost_reply_has_taken_effect() -> None:
    """The client learns nothing after the timeout; the claim that nobody knows of ends by itself."""

    async def story() -> None:
        broker = MemoryBroker()
        bus = MemoryBus(broker, "bus")
        await bus.queue.enqueue(task("t"))
        async with bus.queue.view() as view:
            queued = await first(view)
            broker.lose_replies("bus")
            with pytest.raises(BusUnavailable):
                await bus.queue.claim(queued, WORKER)
            assert view.tasks()[0].claim is not None
            again = await bus.queue.claim(await first(view), WORKER)
            assert again is not None
            assert again.claim.attempt == 2

    run_virtual(story())


def test_events_can_be_lost_repeated_and_late_but_stay_in_order() -> None:
    """Faults of delivery never reorder a publisher's batches."""

    async def story() -> None:
        broker = MemoryBroker()
        worker, router = MemoryBus(broker, "worker"), MemoryBus(broker, "router")
        fates = {2: Delivery(copies=0), 3: Delivery(copies=2), 4: Delivery(delay_s=3), 5: Delivery()}

        def fault(client: str, sent: KvEventBatch) -> Delivery:
            assert client == "router"
            return fates.get(sent.sequence, Delivery())

        broker.kv_fault = fault
        async with router.watch_kv() as inbox:
            for sequence in range(1, 6):
                await worker.publish_kv(batch("w", sequence))
            started_s = asyncio.get_running_loop().time()
            assert [b.sequence for b in await take(inbox, 5)] == [1, 3, 3, 4, 5]
            assert asyncio.get_running_loop().time() - started_s == pytest.approx(3)

    run_virtual(story())


def test_a_broker_that_lost_its_state_is_filled_again_by_renewals() -> None:
    """Tasks are gone at once; a worker that renews is never missed, a silent one leaves in time."""

    async def story() -> None:
        broker = MemoryBroker()
        bus = MemoryBus(broker, "bus")
        async with bus.queue.view() as view, bus.watch_fleet() as changes:
            await bus.queue.enqueue(task("t"))
            await bus.announce(status("lively"), ttl_s=10)
            await bus.announce(status("silent"), ttl_s=10)
            await take(changes, 2)
            broker.lose_state()
            await until_empty(view)
            await bus.announce(status("lively", sequence=2), ttl_s=10)
            async with bus.watch_fleet() as fresh:
                assert await take(fresh, 1) == [seen("lively", 2)]
            assert await take(changes, 3) == [seen("lively", 2), left("silent"), left("lively")]

    run_virtual(story())


def test_latency_delays_requests_and_deliveries() -> None:
    """With 5 ms each way a task is claimed after enqueue, delivery and claim, in virtual time."""

    async def story() -> None:
        broker = MemoryBroker()
        broker.latency_s = 0.005
        gateway, worker = MemoryBus(broker, "gateway"), MemoryBus(broker, "worker")
        async with worker.queue.view() as view:
            started_s = asyncio.get_running_loop().time()
            enqueued = asyncio.create_task(gateway.queue.enqueue(task("t")))
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            assert asyncio.get_running_loop().time() - started_s == pytest.approx(0.02)
            await enqueued

    run_virtual(story())


def test_names_of_clients_are_unique() -> None:
    """Faults are addressed by name, so two clients cannot share one; a closed one frees it."""

    async def story() -> None:
        broker = MemoryBroker()
        bus = MemoryBus(broker, "bus")
        with pytest.raises(ValueError, match="connected already"):
            MemoryBus(broker, "bus")
        await bus.close()
        assert MemoryBus(broker, "bus").connected

    run_virtual(story())
