"""Whoever places a handed-over prompt is told how long it waited in the queue."""

import asyncio

from services.bus.memory import MemoryBus
from services.cluster.inprocess import InProcessCluster
from services.domain.errors import Rejected
from services.domain.ids import GatewayId, WorkerId
from services.domain.placement import DecodePlacement, DecodeQuery, PathPreference
from services.gateway.conductor import Conductor
from services.gateway.settings import ConductorSettings
from services.link.memory import MemoryDialer
from services.router.placer import LocalPlacer
from services.router.router import Router
from services.router.settings import RouterSettings
from services.runtime.clock import LoopClock
from services.runtime.metrics import Meters
from tests.cluster.test_requests_in_process import in_cluster, request, tokens_of


class Listener(LocalPlacer):
    """A router that keeps what it was asked at handoffs."""

    def __init__(self, router: Router) -> None:
        super().__init__(router, LoopClock())
        self.asked: list[DecodeQuery] = []

    async def place_decode(self, query: DecodeQuery) -> DecodePlacement | Rejected:
        """Keep and answer."""
        self.asked.append(query)
        return await super().place_decode(query)


def test_the_wait_is_that_from_placement_to_claim() -> None:
    """Of two prompts one is claimed at once, the other waits for it."""

    async def work(cluster: InProcessCluster) -> None:
        router = Router(RouterSettings())
        placer = Listener(router)
        gateway = Conductor(
            ConductorSettings(),
            router,
            MemoryBus(cluster.broker, "listener"),
            MemoryDialer(cluster.network),
            gateway_id=GatewayId("listener"),
            clock=LoopClock(),
            meters=Meters(),
            placer=placer,
        )
        await gateway.start()
        await gateway.wait_linked(frozenset({WorkerId("prefill-0"), WorkerId("decode-0")}))
        prompts = request("a", 20_000), request("b", 9000, first=400)
        async with asyncio.TaskGroup() as group:
            for asked in prompts:
                group.create_task(tokens_of(gateway, asked, preference=PathPreference.REMOTE))
        told_s = {query.request_id: query.waited_s for query in placer.asked}
        waits_s: list[float] = []
        for asked in prompts:
            record = gateway.record(asked.request_id)
            assert record is not None
            assert record.timeline.waited_s is not None
            assert told_s[asked.request_id] == record.timeline.waited_s
            waits_s.append(record.timeline.waited_s)
        assert min(waits_s) < 0.02
        assert max(waits_s) > 0.1
        await gateway.stop()

    in_cluster(work)
