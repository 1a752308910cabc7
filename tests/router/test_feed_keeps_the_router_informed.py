"""The feed brings what the bus says into the router, and mends what the bus lost."""

import asyncio
from collections.abc import Awaitable, Callable

from services.bus.memory.broker import MemoryBroker
from services.bus.memory.client import MemoryBus
from services.domain.blocks import KvSnapshot
from services.domain.errors import WorkerLost
from services.domain.ids import EngineEpoch, WorkerId
from services.domain.worker import WorkerStatus
from services.router.feed import Feed
from services.router.router import Router
from services.router.settings import RouterSettings
from services.runtime.clock import LoopClock, run_virtual
from services.runtime.metrics import Meters
from tests.router.scenery import DECODE, worker
from tests.router.test_index_equals_its_model import CHAIN, E1, batch, stored

W = WorkerId("a")


class Cluster:
    """A broker, a worker's side of it, and a router that is fed from it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, "worker")
        self.router = Router(RouterSettings(stale_after_s=2.0, forget_after_s=10.0))
        self.seen: list[WorkerId] = []
        self.left: list[WorkerId] = []
        self.asked: list[WorkerId] = []
        self.refusals_left = 0
        self.depth = 0
        self.sequence = 0
        self.epoch = E1

    async def announce(self, ttl_s: float = 5.0) -> None:
        """Renew the worker's status."""
        await self.bus.announce(worker("a", DECODE, epoch=self.epoch, kv_sequence=self.sequence), ttl_s=ttl_s)

    async def store(self, depth: int, *, lose: bool = False) -> None:
        """Let the worker hold the first blocks of the chain, and tell of it unless it is lost."""
        self.depth, self.sequence = depth, self.sequence + 1
        if not lose:
            await self.bus.publish_kv(batch(W, self.sequence, stored(CHAIN[:depth]), epoch=self.epoch))

    async def snapshot(self, worker_id: WorkerId) -> KvSnapshot:
        """Answer as the worker's link would."""
        self.asked.append(worker_id)
        if self.refusals_left > 0:
            self.refusals_left -= 1
            raise WorkerLost(worker_id=worker_id, message="not now")
        return KvSnapshot(
            worker_id=W, epoch=self.epoch, sequence=self.sequence, stored=(stored(CHAIN[: self.depth]),)
        )

    def note_seen(self, status: WorkerStatus) -> None:
        """Remember who was seen."""
        self.seen.append(status.worker_id)

    def feed(self) -> Feed:
        """What is tested."""
        return Feed(
            self.router,
            MemoryBus(self.broker, "router"),
            snapshot=self.snapshot,
            clock=LoopClock(),
            meters=Meters(),
            on_seen=self.note_seen,
            on_left=self.left.append,
        )

    def overlap(self) -> int:
        """What the index says of the worker."""
        return self.router.index.overlaps(CHAIN).get(W, 0)


Until = Callable[[Callable[[], bool]], Awaitable[None]]


def play(story: Callable[[Cluster, Until], Awaitable[None]]) -> None:
    """Tell a story on the virtual clock, with a feed that runs from its beginning to its end."""

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not holds():  # noqa: ASYNC110  # the clock is virtual: nothing polls in real time
                await asyncio.sleep(0.01)

    async def told() -> None:
        cluster = Cluster()
        await cluster.announce()
        feeding = asyncio.create_task(cluster.feed().run())
        await until(lambda: len(cluster.router.fleet) == 1)
        await story(cluster, until)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    run_virtual(told())


def test_statuses_events_and_departures_arrive() -> None:
    """What a worker announces and publishes is in the router, and gone when it says goodbye."""

    async def story(cluster: Cluster, until: Until) -> None:
        await cluster.store(20)
        await until(lambda: cluster.overlap() == 20)
        await cluster.bus.withdraw(W)
        await until(lambda: cluster.left == [W])
        assert (len(cluster.router.fleet), len(cluster.router.index), cluster.asked) == (0, 0, [])
        assert set(cluster.seen) == {W}

    play(story)


def test_a_lost_batch_is_mended_by_one_snapshot() -> None:
    """A gap in the numbers is answered by a snapshot, asked for once however many batches follow."""

    async def story(cluster: Cluster, until: Until) -> None:
        await cluster.store(5)
        await cluster.store(9, lose=True)
        await cluster.store(12)
        await cluster.store(15)
        await until(lambda: cluster.overlap() == 15)
        assert cluster.asked == [W]

    play(story)


def test_the_last_batch_lost_is_noticed_by_the_status() -> None:
    """Nothing follows the lost batch, yet the next statuses tell that it is missing."""

    async def story(cluster: Cluster, until: Until) -> None:
        await cluster.store(9, lose=True)
        for _ in range(2):
            await cluster.announce()
        await until(lambda: cluster.overlap() == 9)

    play(story)


def test_a_snapshot_that_fails_is_asked_for_again() -> None:
    """A worker that cannot be reached yet is asked until it answers, ever more slowly."""

    async def story(cluster: Cluster, until: Until) -> None:
        cluster.refusals_left = 6
        await cluster.store(7, lose=True)
        for _ in range(2):
            await cluster.announce()
        await until(lambda: cluster.overlap() == 7)
        assert len(cluster.asked) == 7

    play(story)


def test_a_worker_that_left_is_not_asked_any_more() -> None:
    """Asking ends with the worker, so nothing is retried for ever."""

    async def story(cluster: Cluster, until: Until) -> None:
        cluster.refusals_left = 10_000
        await cluster.store(7, lose=True)
        for _ in range(2):
            await cluster.announce()
        await until(lambda: len(cluster.asked) > 2)
        await cluster.bus.withdraw(W)
        await until(lambda: cluster.left == [W])
        count, began_s = len(cluster.asked), LoopClock().now_s()
        await until(lambda: LoopClock().now_s() > began_s + 60)
        assert len(cluster.asked) <= count + 1

    play(story)


def test_a_restarted_engine_begins_with_an_empty_index() -> None:
    """A new epoch drops what the old one held, without any snapshot."""

    async def story(cluster: Cluster, until: Until) -> None:
        await cluster.store(30)
        await until(lambda: cluster.overlap() == 30)
        cluster.epoch, cluster.sequence = EngineEpoch("e2"), 0
        await cluster.announce()
        await cluster.store(3)
        await until(lambda: cluster.overlap() == 3)
        assert cluster.asked == []

    play(story)


def test_a_silent_worker_is_dropped_and_its_links_too() -> None:
    """A worker whose departure nobody announced is forgotten by age, and the owner is told."""

    async def story(cluster: Cluster, until: Until) -> None:
        await cluster.announce(ttl_s=10_000)
        await until(lambda: cluster.left == [W])
        assert len(cluster.router.fleet) == 0

    play(story)
