"""Engines of two versions side by side, as in an upgrade: KV goes where it can be read, nothing is lost."""

import asyncio

from services.cluster.inprocess import InProcessCluster
from services.domain.ids import RequestId
from services.domain.placement import Path, PathPreference
from services.domain.worker import Phase
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.port import RequestRecord
from services.runtime.clock import run_virtual
from tests.cluster.test_requests_in_process import request, tokens_of, truth

PREFILL, DECODE = (Phase.PREFILL,), (Phase.DECODE,)
OLD, NEW = SimulatedSettings(), SimulatedSettings(version="2")
POOLS = {"p0": PREFILL, "p1": PREFILL, "d0": DECODE, "d1": DECODE}


async def serve(
    cluster: InProcessCluster, number: int, preference: PathPreference = PathPreference.AUTO
) -> RequestRecord:
    """Serve one request, exactly; what became of it."""
    gateway = cluster.gateways[0]
    asked = request(f"r{number}", 600, max_tokens=40, first=300 + 5 * number)
    assert await tokens_of(gateway, asked, preference=preference) == truth(asked)
    record = gateway.record(RequestId(f"r{number}"))
    assert record is not None
    return record


async def upgrade(cluster: InProcessCluster, name: str) -> None:
    """Replace a worker by one of the new version, as a rolling update does."""
    await cluster.drain_worker(name, 10.0)
    await cluster.start_worker(name, NEW)


def test_the_queue_gives_prompts_to_workers_whose_kv_can_be_read() -> None:
    """Both decode workers are new, one prefill worker is old: it leaves every task to the other."""

    async def main() -> None:
        cluster = InProcessCluster(POOLS, engine=OLD)
        await cluster.start()
        try:
            for name in ("d0", "d1", "p1"):
                await upgrade(cluster, name)
            await asyncio.sleep(2.0)
            records = await asyncio.gather(
                *(serve(cluster, number, PathPreference.REMOTE) for number in range(20))
            )
            for record in records:
                assert record.handoff is not None
                assert record.handoff.worker_id == "p1"
                assert not record.fallbacks
        finally:
            await cluster.stop()

    run_virtual(main())


def test_an_upgrade_of_all_workers_loses_nothing() -> None:
    """One after another, decode or prefill first, under load: all is exact, and KV is handed over again."""

    async def main(order: tuple[str, ...]) -> None:
        cluster = InProcessCluster(POOLS, engine=OLD)
        await cluster.start()
        try:
            number = 0
            async with asyncio.TaskGroup() as group:
                for name in order:
                    rolled = group.create_task(upgrade(cluster, name))
                    for _ in range(40):
                        group.create_task(serve(cluster, number))
                        number += 1
                        await asyncio.sleep(0.025)
                    await rolled
            last = await serve(cluster, number, PathPreference.REMOTE)
            assert last.placement is not None
            assert last.placement.path is Path.REMOTE
            assert not last.fallbacks
            await asyncio.sleep(2.0)
            assert not any(cluster.leftovers().values())
        finally:
            await cluster.stop()

    run_virtual(main(("d0", "d1", "p0", "p1")))
    run_virtual(main(("p0", "d0", "p1", "d1")))
