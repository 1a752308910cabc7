"""Both directions carry every message once, in order, and each side knows who speaks."""

from services.domain.ids import GatewayId
from services.link.port import GatewayLink
from tests.link.rigs import Endpoint, World, accepted, cancel, joined, read

COUNT = 1000


def test_both_directions_at_once(world: World) -> None:
    """A thousand messages each way, interleaved, arrive as they were sent."""

    async def scenario() -> None:
        endpoint = Endpoint()
        async with joined(world, endpoint) as link:
            for n in range(COUNT):
                assert link.send(cancel(n))
                assert endpoint.link.send(accepted(n))
            assert await read(link, COUNT) == [accepted(n) for n in range(COUNT)]
            await endpoint.until(lambda: len(endpoint.messages) == COUNT)
            assert endpoint.messages == [cancel(n) for n in range(COUNT)]

    world.run(scenario())


def test_each_side_learns_who_the_other_is(world: World) -> None:
    """Hello and Welcome carry the gateway's id, the worker's id and the life of its engine."""

    async def scenario() -> None:
        endpoint = Endpoint("w7")
        async with joined(world, endpoint, gateway_id=GatewayId("g3")) as link:
            assert (link.worker_id, link.epoch) == ("w7", "w7-epoch")
            assert endpoint.link.gateway_id == "g3"
            assert not endpoint.messages

    world.run(scenario())


def test_what_a_worker_sends_while_it_opens_arrives_first(world: World) -> None:
    """A worker may greet a gateway from within `opened`."""

    class Greeting(Endpoint):
        def opened(self, link: GatewayLink) -> None:
            super().opened(link)
            assert link.send(accepted(0))

    async def scenario() -> None:
        endpoint = Greeting()
        async with joined(world, endpoint) as link:
            endpoint.link.send(accepted(1))
            assert await read(link, 2) == [accepted(0), accepted(1)]

    world.run(scenario())


def test_gateways_are_kept_apart(world: World) -> None:
    """Two gateways of one worker each get their own messages."""

    async def scenario() -> None:
        endpoint = Endpoint()
        server = world.server()
        address = await server.serve(endpoint)
        dialer = world.dialer()
        links = [
            await dialer.connect(address, gateway_id=GatewayId(f"g{n}"), timeout_s=10.0) for n in range(2)
        ]
        for _, link in endpoint.events:
            link.send(accepted(int(link.gateway_id[1:])))
        for n, link_to_worker in enumerate(links):
            assert await read(link_to_worker, 1) == [accepted(n)]
            await link_to_worker.close()
        await server.close()

    world.run(scenario())
