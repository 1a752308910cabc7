"""Fleet membership: whoever watches knows who is there."""

import asyncio

import pytest

from services.domain.ids import WorkerId
from tests.bus.arenas import Arena, Join
from tests.bus.samples import DEADLINE_S, left, seen, status, take, until_change


def test_a_watcher_sees_join_renewal_and_leave_in_order(arena: Arena) -> None:
    """Each change of one worker arrives once, in the order in which it was made."""

    async def story(join: Join) -> None:
        worker, router = await join(), await join()
        async with router.watch_fleet() as changes:
            for sequence in (1, 2):
                await worker.announce(status("w", sequence=sequence), ttl_s=30)
                assert await take(changes, 1) == [seen("w", sequence)]
            await worker.withdraw(WorkerId("w"))
            assert await take(changes, 1) == [left("w")]

    arena.play(story)


def test_a_new_watcher_first_sees_everybody_who_is_there(arena: Arena) -> None:
    """A watch replays the present state, with the newest status of each, and nobody who left."""

    async def story(join: Join) -> None:
        worker = await join()
        for name in ("a", "b", "c"):
            await worker.announce(status(name), ttl_s=30)
        await worker.announce(status("a", sequence=2), ttl_s=30)
        await worker.withdraw(WorkerId("b"))
        router = await join()
        async with router.watch_fleet() as changes:
            present = await take(changes, 2)
            assert sorted(present, key=repr) == sorted([seen("a", 2), seen("c")], key=repr)
            await worker.announce(status("d"), ttl_s=30)
            assert await take(changes, 1) == [seen("d")]

    arena.play(story)


def test_a_status_that_is_not_renewed_disappears(arena: Arena) -> None:
    """Silence ends membership; renewal keeps it."""

    async def story(join: Join) -> None:
        worker, router = await join(), await join()
        async with router.watch_fleet() as changes:
            await worker.announce(status("silent"), ttl_s=1)
            await worker.announce(status("lively"), ttl_s=60)
            read = await until_change(changes, left("silent"))
            assert seen("lively") in read
            assert left("lively") not in read
        late = await join()
        async with late.watch_fleet() as changes:
            assert await take(changes, 1) == [seen("lively")]

    arena.play(story)


def test_a_slow_watcher_gets_the_newest_status(arena: Arena) -> None:
    """A watcher that does not read is not flooded: it later reads one change per worker, the last."""

    async def story(join: Join) -> None:
        worker, router = await join(), await join()
        async with router.watch_fleet() as slow, router.watch_fleet() as quick:
            for sequence in range(1, 51):
                await worker.announce(status("w", sequence=sequence), ttl_s=30)
            await until_change(quick, seen("w", 50))
            read = await until_change(slow, seen("w", 50))
            assert len(read) <= 2

    arena.play(story)


def test_withdrawing_a_stranger_changes_nothing(arena: Arena) -> None:
    """A worker that was never announced cannot leave."""

    async def story(join: Join) -> None:
        worker, router = await join(), await join()
        async with router.watch_fleet() as changes:
            await worker.withdraw(WorkerId("nobody"))
            await worker.announce(status("w"), ttl_s=30)
            assert await take(changes, 1) == [seen("w")]

    arena.play(story)


def test_ids_may_hold_any_character(arena: Arena) -> None:
    """Dots, spaces and wildcards in an id address nothing but that worker."""

    async def story(join: Join) -> None:
        worker, router = await join(), await join()
        async with router.watch_fleet() as changes:
            for name in ("a.b", "a b", "*", ">", "=41", "über/1"):
                await worker.announce(status(name), ttl_s=30)
                assert await take(changes, 1) == [seen(name)]
            await worker.withdraw(WorkerId("*"))
            assert await take(changes, 1) == [left("*")]

    arena.play(story)


def test_leaving_the_bus_ends_its_watches(arena: Arena) -> None:
    """A closed bus ends the iteration instead of leaving its reader waiting; closing twice is fine."""

    async def story(join: Join) -> None:
        router = await join()
        async with router.watch_fleet() as changes, router.watch_kv() as batches:
            await router.close()
            await router.close()
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(StopAsyncIteration):
                    await anext(changes)
                with pytest.raises(StopAsyncIteration):
                    await anext(batches)
            assert not router.connected

    arena.play(story)
