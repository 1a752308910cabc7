"""A gateway whose links all broke serves again as soon as one is back, and refuses nobody meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.blocks import CacheScope
from services.domain.errors import NotReady
from services.domain.ids import GatewayId, RequestId, WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.domain.worker import Phase
from services.gateway.port import ServeOptions
from services.gateway.settings import ConductorSettings
from services.runtime.clock import run_virtual

GATEWAY = GatewayId("gateway-0")
PHASES = {"prefill-0": (Phase.PREFILL,), "decode-0": (Phase.DECODE,)}
OUTPUT_TOKENS = 5


async def serve(cluster: InProcessCluster, name: str) -> int:
    """Have a request served; returns its tokens, count."""
    asked = InferenceRequest(
        request_id=RequestId(name),
        scope=CacheScope(model=MODEL),
        prompt_token_ids=tuple(range(300, 400)),
        sampling=Sampling(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True),
    )
    count = 0
    async for delta in cluster.gateways[0].generate(asked, ServeOptions(deadline_s=60.0)):
        if delta.error is not None:
            raise delta.error
        count += len(delta.token_ids)
    return count


def in_cluster(work: Callable[[InProcessCluster], Awaitable[None]]) -> None:
    """Run a story in a cluster on the virtual clock."""

    async def main() -> None:
        cluster = InProcessCluster(PHASES)
        await cluster.start()
        try:
            await work(cluster)
        finally:
            await cluster.stop()

    run_virtual(main())


def test_a_request_waits_for_a_link_that_comes_back() -> None:
    """All links break at once, as for a gateway that stood still; the next request finds one soon."""

    async def story(cluster: InProcessCluster) -> None:
        for worker in PHASES:
            cluster.network.break_link(GATEWAY, WorkerId(worker))
        await asyncio.sleep(0)
        assert cluster.gateways[0].ready() == "no decode worker can be reached"
        assert await serve(cluster, "after the pause") == OUTPUT_TOKENS

    in_cluster(story)


def test_without_a_link_it_is_refused_in_time() -> None:
    """When no link comes back the answer is the honest refusal, after `link_patience_s` and not later."""

    async def story(cluster: InProcessCluster) -> None:
        for worker in PHASES:
            cluster.network.partition(GATEWAY, WorkerId(worker))
            cluster.network.break_link(GATEWAY, WorkerId(worker))
        await asyncio.sleep(0)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(NotReady):
            await serve(cluster, "in vain")
        waited_s = asyncio.get_running_loop().time() - began_s
        assert waited_s == pytest.approx(ConductorSettings().link_patience_s)
        for worker in PHASES:
            cluster.network.heal(GATEWAY, WorkerId(worker))

    in_cluster(story)
