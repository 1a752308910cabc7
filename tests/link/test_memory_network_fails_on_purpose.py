"""The faults that a simulator plays on links in memory, and what both ends see of them."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.domain.errors import WorkerLost
from services.domain.ids import WorkerId
from services.domain.link import ToWorker
from services.link.memory import SILENCE_S_MAX, MemoryLinkServer, MemoryNetwork
from services.link.port import GatewayLink, WorkerLink
from services.runtime.clock import run_virtual
from tests.link.rigs import GATEWAY, Endpoint, accepted, cancel, collect, read

WORKER = WorkerId("worker")


@asynccontextmanager
async def attached(network: MemoryNetwork, endpoint: Endpoint) -> AsyncIterator[WorkerLink]:
    """Serve an endpoint in this network and attach one gateway."""
    server = network.server(endpoint.worker_id)
    address = await server.serve(endpoint)
    link = await network.dialer().connect(address, gateway_id=GATEWAY, timeout_s=10.0)
    yield link
    await link.close()
    await server.close()


def now_s() -> float:
    """Virtual time."""
    return asyncio.get_running_loop().time()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run on a virtual clock."""
    run_virtual(scenario)


def test_a_short_partition_only_delays() -> None:
    """What was sent meanwhile arrives in order once the network heals."""

    async def scenario() -> None:
        network, endpoint = MemoryNetwork(), Endpoint()
        async with attached(network, endpoint) as link:
            network.partition(GATEWAY, WORKER)
            for n in range(5):
                assert link.send(cancel(n))
                assert endpoint.link.send(accepted(n))
            await asyncio.wait({asyncio.create_task(collect(link))}, timeout=SILENCE_S_MAX / 2)
            assert endpoint.messages == []
            network.heal(GATEWAY, WORKER)
            await endpoint.until(lambda: len(endpoint.messages) == 5)
            assert endpoint.messages == [cancel(n) for n in range(5)]
            assert endpoint.kinds == ["opened"]

    run(scenario())


def test_a_long_partition_ends_the_link_on_both_sides() -> None:
    """Both ends take each other for dead after the same silence that keepalive allows."""

    async def scenario() -> None:
        network, endpoint = MemoryNetwork(), Endpoint()
        async with attached(network, endpoint) as link:
            before_s = now_s()
            network.partition(GATEWAY, WORKER)
            assert link.send(cancel(1))
            assert await collect(link) == []
            assert now_s() - before_s == pytest.approx(SILENCE_S_MAX)
            assert endpoint.kinds == ["opened", "closed"]
            assert endpoint.messages == []
            assert not link.send(cancel(2))

    run(scenario())


def test_nobody_connects_across_a_partition_until_it_heals() -> None:
    """A dialer waits out its time, or until the network heals."""

    async def scenario() -> None:
        network, endpoint = MemoryNetwork(), Endpoint()
        address = await network.server("worker").serve(endpoint)
        network.partition(GATEWAY, WORKER)
        with pytest.raises(WorkerLost, match="no answer"):
            await network.dialer().connect(address, gateway_id=GATEWAY, timeout_s=1.0)
        connecting = asyncio.create_task(
            network.dialer().connect(address, gateway_id=GATEWAY, timeout_s=1000.0)
        )
        await asyncio.wait({connecting}, timeout=100.0)
        assert not connecting.done()
        network.heal(GATEWAY, WORKER)
        assert (await connecting).worker_id == WORKER

    run(scenario())


def test_a_broken_link_loses_what_was_on_its_way() -> None:
    """Both ends see the break at once; nothing arrives late."""

    async def scenario() -> None:
        network, endpoint = MemoryNetwork(delay_s=lambda _g, _w: 1.0), Endpoint()
        async with attached(network, endpoint) as link:
            assert link.send(cancel(1))
            assert endpoint.link.send(accepted(1))
            asking = asyncio.create_task(link.snapshot())
            await asyncio.sleep(0)
            network.break_link(GATEWAY, WORKER)
            assert endpoint.kinds == ["opened", "closed"]
            assert await collect(link) == []
            with pytest.raises(WorkerLost):
                await asking
            assert endpoint.messages == []

    run(scenario())


def test_a_crashed_worker_hears_nothing_more() -> None:
    """The gateway sees the end; the dead process is told nothing, and its address is free."""

    async def scenario() -> None:
        network, endpoint = MemoryNetwork(), Endpoint()
        async with attached(network, endpoint) as link:
            network.crash_worker(WORKER)
            assert await collect(link) == []
            assert endpoint.kinds == ["opened"]
            assert not endpoint.link.send(accepted(1))
            successor = Endpoint()
            address = await network.server("worker").serve(successor)
            await network.dialer().connect(address, gateway_id=GATEWAY, timeout_s=1.0)
            assert successor.kinds == ["opened"]

    run(scenario())


def test_a_crashed_gateway_is_seen_by_its_workers() -> None:
    """Every worker it was attached to hears of the end, once."""

    async def scenario() -> None:
        network = MemoryNetwork()
        endpoints = [Endpoint("w1"), Endpoint("w2")]
        for endpoint in endpoints:
            address = await network.server(endpoint.worker_id).serve(endpoint)
            await network.dialer().connect(address, gateway_id=GATEWAY, timeout_s=1.0)
        network.crash_gateway(GATEWAY)
        assert [endpoint.kinds for endpoint in endpoints] == [["opened", "closed"]] * 2

    run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_drawn_delays_never_reorder(seed: int) -> None:
    """However a simulator draws delays, messages keep their order, and equal seeds give equal times."""

    async def once() -> tuple[list[object], float]:
        draw = random.Random(seed)
        network, endpoint = MemoryNetwork(delay_s=lambda _g, _w: draw.expovariate(100)), Endpoint()
        async with attached(network, endpoint) as link:
            for n in range(200):
                endpoint.link.send(accepted(n))
            return list(await read(link, 200)), now_s()

    first, again = run_virtual(once()), run_virtual(once())
    assert first == again
    assert first[0] == [accepted(n) for n in range(200)]


def test_a_hanging_worker_gives_no_snapshot() -> None:
    """A snapshot is waited for as long as the port says, then the worker counts as lost."""

    async def scenario() -> None:
        network, endpoint = MemoryNetwork(silence_s_max=1000.0), Endpoint()
        async with attached(network, endpoint) as link:
            network.partition(GATEWAY, WORKER)
            before_s = now_s()
            with pytest.raises(WorkerLost):
                await link.snapshot()
            assert now_s() - before_s == pytest.approx(10.0)

    run(scenario())


def test_an_endpoint_that_fails_loses_the_link() -> None:
    """A bug in the worker ends the link on both sides, as it does over the network."""

    class Broken(Endpoint):
        def received(self, link: GatewayLink, message: ToWorker) -> None:
            raise ArithmeticError("a bug")

    async def scenario() -> None:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: seen.append(c["exception"]))
        network, endpoint = MemoryNetwork(), Broken()
        async with attached(network, endpoint) as link:
            link.send(cancel(1))
            assert await collect(link) == []
            assert endpoint.kinds == ["opened", "closed"]
        assert [type(error) for error in seen] == [ArithmeticError]

    run(scenario())


def test_servers_keep_their_address_until_they_close() -> None:
    """Two workers cannot have one address; a closed one frees it."""

    async def scenario() -> None:
        network = MemoryNetwork()
        server: MemoryLinkServer = network.server("worker")
        address = await server.serve(Endpoint())
        with pytest.raises(Exception, match="in use"):
            await network.server("worker").serve(Endpoint())
        await server.close()
        assert await network.server("worker").serve(Endpoint()) == address

    run(scenario())
