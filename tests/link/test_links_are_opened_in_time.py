"""Connecting succeeds, or fails as `WorkerLost` within its time."""

import asyncio

import pytest

from services.domain.errors import WorkerLost
from tests.link.rigs import GATEWAY, Endpoint, World, accepted, read


def test_nobody_listens(world: World) -> None:
    """A refused connection is known at once, long before the timeout."""

    async def scenario() -> None:
        with pytest.raises(WorkerLost, match="cannot connect"):
            await world.dialer().connect(world.refused(), gateway_id=GATEWAY, timeout_s=1000.0)

    world.run(scenario())


def test_nobody_answers(world: World) -> None:
    """A port that swallows everything costs the timeout and no more."""

    async def scenario() -> None:
        async with world.silent() as address:
            with pytest.raises(WorkerLost, match="no answer"):
                await world.dialer().connect(address, gateway_id=GATEWAY, timeout_s=0.2)

    world.run(scenario())


def test_connecting_can_be_cancelled(world: World) -> None:
    """A gateway that stops does not wait for a machine that hangs."""

    async def scenario() -> None:
        async with world.silent() as address:
            connecting = asyncio.create_task(
                world.dialer().connect(address, gateway_id=GATEWAY, timeout_s=1000.0)
            )
            await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait({connecting})
            assert connecting.cancelled()

    world.run(scenario())


def test_a_worker_that_comes_back_is_reached_again(world: World) -> None:
    """After a worker stopped and started, the same dialer opens a link that works."""

    async def scenario() -> None:
        dialer = world.dialer()
        for n in range(3):
            endpoint, server = Endpoint(f"life{n}"), world.server()
            address = await server.serve(endpoint)
            link = await dialer.connect(address, gateway_id=GATEWAY, timeout_s=10.0)
            assert link.epoch == f"life{n}-epoch"
            endpoint.link.send(accepted(n))
            assert await read(link, 1) == [accepted(n)]
            await server.close()
            await link.close()
            with pytest.raises(WorkerLost):
                await dialer.connect(address, gateway_id=GATEWAY, timeout_s=10.0)

    world.run(scenario())


def test_a_gateway_comes_back_after_its_link_ended(world: World) -> None:
    """Closing and connecting again gives a fresh link, each with its own opening and end."""

    async def scenario() -> None:
        endpoint, server = Endpoint(), world.server()
        address = await server.serve(endpoint)
        for n in range(3):
            link = await world.dialer().connect(address, gateway_id=GATEWAY, timeout_s=10.0)
            endpoint.link.send(accepted(n))
            assert await read(link, 1) == [accepted(n)]
            await link.close()
            await endpoint.until(lambda: endpoint.kinds[-1] == "closed")
        await server.close()
        assert endpoint.kinds == ["opened", "closed"] * 3

    world.run(scenario())
