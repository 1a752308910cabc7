"""A gateway asks what a worker's cache holds, over the link's own connection."""

import asyncio

import pytest

from services.domain.blocks import BlockHash, KvSnapshot
from services.domain.errors import WorkerLost
from tests.link.rigs import Endpoint, World, accepted, joined, read

BLOCKS = 100_000


def test_a_large_cache(world: World) -> None:
    """A hundred thousand blocks arrive whole and in order, while messages go on crossing."""

    async def scenario() -> None:
        endpoint = Endpoint(block_count=BLOCKS)
        async with joined(world, endpoint) as link:
            asking = asyncio.create_task(link.snapshot())
            endpoint.link.send(accepted(1))
            assert await read(link, 1) == [accepted(1)]
            snapshot = await asking
        assert (snapshot.worker_id, snapshot.epoch, snapshot.sequence) == ("worker", "worker-epoch", 3)
        assert _hashes(snapshot) == tuple(range(BLOCKS))

    world.run(scenario())


def _hashes(snapshot: KvSnapshot) -> tuple[BlockHash, ...]:
    return tuple(h for run in snapshot.stored for h in run.hashes)


def test_an_empty_cache(world: World) -> None:
    """Nothing is an answer too."""

    async def scenario() -> None:
        async with joined(world, Endpoint()) as link:
            assert (await link.snapshot()).stored == ()

    world.run(scenario())


def test_a_closed_link_has_no_snapshot(world: World) -> None:
    """Asking after the end fails at once."""

    async def scenario() -> None:
        async with joined(world, Endpoint()) as link:
            await link.close()
            with pytest.raises(WorkerLost):
                await link.snapshot()

    world.run(scenario())


def test_a_link_that_ends_takes_its_question_with_it(world: World) -> None:
    """Whoever waits for a snapshot learns that the link ended, rather than waiting for its timeout."""

    async def scenario() -> None:
        async with joined(world, Endpoint(block_count=BLOCKS)) as link:
            asking = asyncio.create_task(link.snapshot())
            await asyncio.sleep(0)
            await link.close()
            with pytest.raises(WorkerLost):
                await asking

    world.run(scenario())


def test_asking_can_be_cancelled(world: World) -> None:
    """A cancelled question is cancelled, not lost; the link goes on."""

    async def scenario() -> None:
        async with joined(world, Endpoint(block_count=BLOCKS)) as link:
            asking = asyncio.create_task(link.snapshot())
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
            assert asking.cancelled()
            assert (await link.snapshot()).sequence == 3

    world.run(scenario())
