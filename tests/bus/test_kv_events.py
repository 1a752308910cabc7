"""KV events: in order, at most once, to whoever listens."""

from services.bus.settings import BusLimits
from tests.bus.arenas import Arena, Join
from tests.bus.samples import batch, take


def test_batches_arrive_in_the_order_of_their_publisher(arena: Arena) -> None:
    """Two listeners both read all batches of two workers, each worker's in order, none twice."""

    async def story(join: Join) -> None:
        one, two, router_a, router_b = [await join() for _ in range(4)]
        async with router_a.watch_kv() as inbox_a, router_b.watch_kv() as inbox_b:
            for sequence in range(1, 101):
                await one.publish_kv(batch("one", sequence))
                await two.publish_kv(batch("two", sequence))
            for inbox in (inbox_a, inbox_b):
                read = await take(inbox, 200)
                for name in ("one", "two"):
                    own = [b for b in read if b.worker_id == name]
                    assert own == [batch(name, sequence) for sequence in range(1, 101)]

    arena.play(story)


def test_a_listener_hears_from_now_on(arena: Arena) -> None:
    """What was published before a watch began is not replayed: a snapshot brings it."""

    async def story(join: Join) -> None:
        worker, router, other = await join(), await join(), await join()
        async with other.watch_kv() as early:
            await worker.publish_kv(batch("w", 1))
            await take(early, 1)
        async with router.watch_kv() as inbox:
            await worker.publish_kv(batch("w", 2))
            assert await take(inbox, 1) == [batch("w", 2)]

    arena.play(story)


def test_a_slow_listener_loses_the_oldest_and_can_tell(arena: Arena) -> None:
    """The buffer is bounded; what is left is the newest, and the gap shows in the numbers."""
    limits = BusLimits(kv_batches_max=10)

    async def story(join: Join) -> None:
        worker, router, other = await join(), await join(), await join()
        async with router.watch_kv() as slow, other.watch_kv() as quick:
            for sequence in range(1, 51):
                await worker.publish_kv(batch("w", sequence))
                await take(quick, 1)
            # The slow one's last message may still be on its way: a fresh watch of the same client
            # receives the marker behind it.
            async with router.watch_kv() as marker:
                await worker.publish_kv(batch("w", 51))
                await take(marker, 1)
            assert [b.sequence for b in await take(slow, 10)] == list(range(42, 52))

    arena.play(story, limits)
