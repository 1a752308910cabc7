"""A link that ends, whoever ends it, ends on both sides, and the worker hears of it exactly once."""

import asyncio

from services.domain.link import Goodbye
from services.link.port import OUTBOX_MESSAGES_MAX
from tests.link.rigs import GATEWAY, Endpoint, World, accepted, cancel, collect, joined, read


def test_a_gateway_closes(world: World) -> None:
    """The worker hears what was sent before, then of the end, once; the gateway's iterator stops."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(world, endpoint) as link:
            reader = asyncio.create_task(collect(link))
            assert link.send(cancel(1))
            await link.close()
            await link.close()
            assert not link.send(cancel(2))
            assert await reader == []
            await endpoint.until(lambda: "closed" in endpoint.kinds)
            assert endpoint.messages == [cancel(1)]
            assert not endpoint.link.send(accepted(1))
        assert endpoint.kinds == ["opened", "closed"]

    world.run(scenario())


def test_a_gateway_closes_without_reading(world: World) -> None:
    """Messages that nobody reads do not keep a link open."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(world, endpoint) as link:
            for n in range(100):
                endpoint.link.send(accepted(n))
            await link.close()
            await endpoint.until(lambda: "closed" in endpoint.kinds)
            assert await collect(link) == []
        assert endpoint.kinds == ["opened", "closed"]

    world.run(scenario())


def test_a_worker_closes(world: World) -> None:
    """The gateway reads what was sent before, then its iterator stops; the endpoint hears of it once."""

    async def scenario() -> None:
        endpoint = Endpoint()
        server = world.server()
        address = await server.serve(endpoint)
        link = await world.dialer().connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        reader = asyncio.create_task(collect(link))
        for n in range(10):
            assert endpoint.link.send(accepted(n))
        assert endpoint.link.send(Goodbye())
        await server.close()
        await server.close()
        assert await reader == [*(accepted(n) for n in range(10)), Goodbye()]
        assert not link.send(cancel(1))
        assert not endpoint.link.send(accepted(1))
        await link.close()
        assert endpoint.kinds == ["opened", "closed"]

    world.run(scenario())


def test_a_gateway_that_attaches_twice_keeps_the_newer_link(world: World) -> None:
    """The older link is closed before the newer one opens, and only the newer one carries messages."""

    async def scenario() -> None:
        endpoint = Endpoint()
        server = world.server()
        address = await server.serve(endpoint)
        older = await world.dialer().connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        first = endpoint.link
        newer = await world.dialer().connect(address, gateway_id=GATEWAY, timeout_s=10.0)
        assert endpoint.kinds == ["opened", "closed", "opened"]
        assert [link for _, link in endpoint.events] == [first, first, endpoint.link]
        assert not first.send(accepted(0))
        assert endpoint.link.send(accepted(1))
        assert await collect(older) == []
        assert await read(newer, 1) == [accepted(1)]
        await older.close()
        await newer.close()
        await endpoint.until(lambda: len(endpoint.events) == 4)
        await server.close()
        assert endpoint.kinds == ["opened", "closed", "opened", "closed"]

    world.run(scenario())


def test_a_gateway_that_floods_is_cut_off(world: World) -> None:
    """One message more than may wait closes the link instead of growing memory."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(world, endpoint) as link:
            taken = 0
            while link.send(cancel(taken)):
                taken += 1
            assert taken == OUTBOX_MESSAGES_MAX
            assert not link.send(cancel(0))
            await endpoint.until(lambda: "closed" in endpoint.kinds)
            assert await collect(link) == []
        assert endpoint.kinds == ["opened", "closed"]

    world.run(scenario())


def test_a_worker_that_floods_is_cut_off(world: World) -> None:
    """The worker hears of it as of any end, but not from within `send`; the gateway's iterator stops."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(world, endpoint) as link:
            taken = 0
            while endpoint.link.send(accepted(taken)):
                taken += 1
            assert taken >= OUTBOX_MESSAGES_MAX - 1
            assert endpoint.kinds == ["opened"]
            await endpoint.until(lambda: "closed" in endpoint.kinds)
            assert len(await collect(link)) < taken
        assert endpoint.kinds == ["opened", "closed"]

    world.run(scenario())


def test_a_reader_that_is_cancelled_leaves_a_link_that_closes(world: World) -> None:
    """The usual way out of a gateway: its reader is cancelled, then the link is closed."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(world, endpoint) as link:
            reader = asyncio.create_task(collect(link))
            endpoint.link.send(accepted(1))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader})
            assert reader.cancelled()
            await link.close()
            await endpoint.until(lambda: "closed" in endpoint.kinds)

    world.run(scenario())
