"""Workers change their role while they work: nothing is lost, and new work follows the new roles."""

import asyncio
from collections.abc import Sequence

from services.cluster.inprocess import InProcessCluster
from services.domain.ids import EngineEpoch, WorkerId
from services.domain.placement import Path, PathPreference
from services.domain.worker import Phase, RoleOrder
from services.runtime.clock import run_virtual
from tests.cluster.test_requests_in_process import request, tokens_of, truth

PREFILL, DECODE = (Phase.PREFILL,), (Phase.DECODE,)
BOTH = (Phase.DECODE, Phase.PREFILL)
DEADLINE_S = 30.0


async def becomes(cluster: InProcessCluster, name: str, phases: Sequence[Phase]) -> None:
    """Wait until the gateway's router sees a worker in a role."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            view = cluster.gateways[0].router.fleet.get(WorkerId(name))
            if view is not None and view.status.phases == tuple(phases):
                return
            await asyncio.sleep(0.01)


async def serve(
    cluster: InProcessCluster, name: str, first: int, preference: PathPreference = PathPreference.AUTO
) -> str:
    """Serve one request exactly; returns who wrote."""
    gateway = cluster.gateways[0]
    asked = request(name, 600, max_tokens=60, first=first)
    assert await tokens_of(gateway, asked, preference=preference) == truth(asked)
    record = gateway.record(asked.request_id)
    assert record is not None
    assert record.placement is not None
    if record.decode_placement is not None:
        return record.decode_placement.worker_id
    return record.placement.worker_id


def test_roles_are_swapped_under_load() -> None:
    """Every request is exact, before, during and after; then the other worker writes."""

    async def main() -> None:
        cluster = InProcessCluster({"a": PREFILL, "b": DECODE})
        await cluster.start()
        try:
            assert await serve(cluster, "before", 300, PathPreference.REMOTE) == "b"
            async with asyncio.TaskGroup() as group:
                for number in range(30):
                    group.create_task(serve(cluster, f"r{number}", 400 + 7 * number))
                    await asyncio.sleep(0.02)
                    if number == 10:
                        await cluster.order_role("a", BOTH)
                    if number == 15:
                        await cluster.order_role("b", PREFILL)
                    if number == 20:
                        await cluster.order_role("a", DECODE)
            await becomes(cluster, "a", DECODE)
            await becomes(cluster, "b", PREFILL)
            assert await serve(cluster, "after", 900, PathPreference.REMOTE) == "a"
            record = cluster.gateways[0].record(request("after", 600, max_tokens=60, first=900).request_id)
            assert record is not None
            assert record.placement is not None
            assert record.placement.path is Path.REMOTE
            assert record.handoff is not None
            assert record.handoff.worker_id == "b"
            await asyncio.sleep(1.0)
            assert not any(cluster.leftovers().values())
        finally:
            await cluster.stop()

    run_virtual(main())


def test_what_a_turned_worker_has_is_finished() -> None:
    """A sequence that runs goes on where it is, with no other way taken."""

    async def main() -> None:
        cluster = InProcessCluster({"a": DECODE, "b": DECODE})
        await cluster.start()
        gateway = cluster.gateways[0]
        try:
            asked = request("long", 400, max_tokens=200, first=500)
            running = asyncio.ensure_future(tokens_of(gateway, asked))
            await asyncio.sleep(0.3)
            busy = next(name for name, engine in cluster.engines.items() if engine.load().running_count)
            await cluster.order_role(busy, PREFILL)
            await becomes(cluster, busy, PREFILL)
            assert not running.done()
            assert await running == truth(asked)
            record = gateway.record(asked.request_id)
            assert record is not None
            assert not record.fallbacks
        finally:
            await cluster.stop()

    run_virtual(main())


def test_an_order_is_for_one_life_of_a_worker() -> None:
    """An order for another epoch is ignored, and a new process has the role that its launcher gives."""

    async def main() -> None:
        cluster = InProcessCluster({"a": PREFILL, "b": DECODE})
        await cluster.start()
        try:
            await cluster.order_role("a", BOTH)
            await becomes(cluster, "a", BOTH)
            former = cluster.workers["a"].epoch
            await cluster.kill_worker("a")
            await cluster.start_worker("a")
            await becomes(cluster, "a", PREFILL)
            stale = RoleOrder(worker_id=WorkerId("a"), epoch=EngineEpoch(former), phases=DECODE)
            await cluster.order(stale)
            await cluster.order_role("b", BOTH)  # behind it on the same way
            await becomes(cluster, "b", BOTH)
            assert cluster.workers["a"].status().phases == PREFILL
        finally:
            await cluster.stop()

    run_virtual(main())


def test_a_worker_cut_off_from_the_bus_is_turned_when_it_is_back() -> None:
    """An order is lost while nobody hears it; given again it counts, and the role outlives the next cut."""

    async def main() -> None:
        cluster = InProcessCluster({"a": PREFILL, "b": DECODE})
        await cluster.start()
        try:
            cluster.broker.partition("a", cut=True)
            await cluster.order_role("a", BOTH)
            cluster.broker.partition("a", cut=False)
            assert cluster.workers["a"].status().phases == PREFILL
            await cluster.order_role("a", BOTH)
            await becomes(cluster, "a", BOTH)
            cluster.broker.partition("a", cut=True)
            cluster.broker.lose_state()
            cluster.broker.partition("a", cut=False)
            await becomes(cluster, "a", BOTH)
        finally:
            await cluster.stop()

    run_virtual(main())
