"""One deadline, set at the edge, ends a request wherever it is, and leaves nothing there."""

import asyncio
from collections.abc import Callable

import pytest

from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.blocks import CacheScope
from services.domain.errors import DeadlineExceeded, ServingError
from services.domain.ids import RequestId
from services.domain.placement import PathPreference
from services.domain.request import InferenceRequest, Sampling
from services.domain.timeline import Mark
from services.domain.worker import Phase
from services.gateway.port import ServeOptions
from services.runtime.clock import run_virtual

DEADLINE_S = 2.0
ASKED = InferenceRequest(
    request_id=RequestId("r"),
    scope=CacheScope(model=MODEL),
    prompt_token_ids=(300,) * 2000,
    sampling=Sampling(max_tokens=1000, temperature=0.0, ignore_eos=True),
)


def unclaimed(cluster: InProcessCluster) -> None:
    """No prefill worker hears of the task."""
    cluster.broker.partition("prefill-0", cut=True)


def prefilling(cluster: InProcessCluster) -> None:
    """The engine that reads the prompt hangs."""
    cluster.engines["prefill-0"].freeze()


def pulling(cluster: InProcessCluster) -> None:
    """The engine that pulls the blocks hangs before it has them."""
    cluster.engines["decode-0"].freeze()


def decoding(cluster: InProcessCluster) -> None:
    """The engine that writes hangs amid its tokens."""
    asyncio.get_running_loop().call_later(DEADLINE_S / 2, cluster.engines["decode-0"].freeze)


HOPS: dict[str, tuple[Callable[[InProcessCluster], object], frozenset[Mark]]] = {
    "queue": (unclaimed, frozenset({Mark.PLACED, Mark.QUEUED})),
    "prefill": (prefilling, frozenset({Mark.QUEUED, Mark.CLAIMED})),
    "pull": (pulling, frozenset({Mark.PREFILLED, Mark.HANDED_OVER})),
    "decode": (decoding, frozenset({Mark.HANDED_OVER, Mark.FIRST_TOKEN})),
}


@pytest.mark.parametrize("hop", HOPS)
def test_a_deadline_ends_a_request_on_this_hop(hop: str) -> None:
    """DeadlineExceeded comes on time, and once the fault is over nothing is held anywhere."""
    hinder, passed = HOPS[hop]

    async def main() -> None:
        cluster = InProcessCluster({"prefill-0": (Phase.PREFILL,), "decode-0": (Phase.DECODE,)})
        await cluster.start()
        try:
            hinder(cluster)
            began_s = asyncio.get_running_loop().time()
            error = await _end_of(cluster)
            assert isinstance(error, DeadlineExceeded)
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(DEADLINE_S, abs=0.01)
            record = cluster.gateways[0].record(ASKED.request_id)
            assert record is not None
            assert passed <= {mark for mark, _ in record.timeline.marks}
            cluster.broker.partition("prefill-0", cut=False)
            for engine in cluster.engines.values():
                engine.thaw()
            await asyncio.sleep(1.0)
            assert {name: held for name, held in cluster.leftovers().items() if held} == {}
        finally:
            await cluster.stop()

    run_virtual(main())


async def _end_of(cluster: InProcessCluster) -> ServingError | None:
    options = ServeOptions(deadline_s=DEADLINE_S, preference=PathPreference.REMOTE)
    try:
        async for delta in cluster.gateways[0].generate(ASKED, options):
            if delta.finish is not None:
                return delta.error
    except ServingError as error:
        return error
    return None
