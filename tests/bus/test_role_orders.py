"""Orders to workers: to one of them, from now on, the last one first."""

from services.domain.ids import EngineEpoch, WorkerId
from services.domain.worker import Phase, RoleOrder
from tests.bus.arenas import Arena, Join
from tests.bus.samples import take


def order(name: str, *phases: Phase) -> RoleOrder:
    """An order to one worker."""
    return RoleOrder(worker_id=WorkerId(name), epoch=EngineEpoch("e"), phases=phases)


def test_an_order_reaches_its_worker_and_no_other(arena: Arena) -> None:
    """Each worker hears what it is told, however strange its name."""

    async def story(join: Join) -> None:
        launcher, one, two = await join(), await join(), await join()
        async with one.watch_roles(WorkerId("one.*")) as to_one, two.watch_roles(WorkerId("two")) as to_two:
            await launcher.order_role(order("one.*", Phase.PREFILL))
            await launcher.order_role(order("two", Phase.DECODE, Phase.PREFILL))
            assert await take(to_one, 1) == [order("one.*", Phase.PREFILL)]
            assert await take(to_two, 1) == [order("two", Phase.DECODE, Phase.PREFILL)]

    arena.play(story)


def test_an_order_to_nobody_is_gone(arena: Arena) -> None:
    """Nothing is kept: who listens later hears later orders only."""

    async def story(join: Join) -> None:
        launcher, worker, witness = await join(), await join(), await join()
        async with witness.watch_roles(WorkerId("w")) as heard:
            await launcher.order_role(order("w", Phase.PREFILL))
            await take(heard, 1)
        async with worker.watch_roles(WorkerId("w")) as heard:
            await launcher.order_role(order("w", Phase.DECODE))
            assert await take(heard, 1) == [order("w", Phase.DECODE)]

    arena.play(story)


def test_of_orders_not_read_the_last_counts(arena: Arena) -> None:
    """A worker that was busy does not go through every role in between."""

    async def story(join: Join) -> None:
        launcher, worker, witness = await join(), await join(), await join()
        async with worker.watch_roles(WorkerId("w")) as slow, witness.watch_roles(WorkerId("w")) as quick:
            for phase in (Phase.PREFILL, Phase.DECODE, Phase.PREFILL, Phase.DECODE):
                await launcher.order_role(order("w", phase))
                await take(quick, 1)
            async with worker.watch_roles(WorkerId("w")) as marker:  # behind what is still on its way
                await launcher.order_role(order("w", Phase.PREFILL))
                await take(marker, 1)
            assert await take(slow, 1) == [order("w", Phase.PREFILL)]

    arena.play(story)
