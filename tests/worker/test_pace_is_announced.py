"""A worker whose engine is slower than its model says so, and routers prefer others."""

import itertools

from services.cluster.inprocess import InProcessCluster
from services.domain.placement import PathPreference
from tests.cluster.test_requests_in_process import in_cluster, request, tokens_of, truth


def test_a_slow_engine_announces_its_pace_and_recovers() -> None:
    """Steps that take four times as long are announced as such; once it is well again, that is too."""

    async def work(cluster: InProcessCluster) -> None:
        worker, engine = cluster.workers["decode-0"], cluster.engines["decode-0"]
        before = worker.status().performance

        names = (f"r{number}" for number in itertools.count())

        async def decode(turns: int) -> None:
            for _ in range(turns):
                asked = request(next(names), max_tokens=100)
                got = await tokens_of(cluster.gateways[0], asked, preference=PathPreference.LOCAL)
                assert got == truth(asked)

        await decode(3)
        assert worker.status().performance == before
        engine.slow_down(4.0)
        await decode(20)
        slow = worker.status().performance
        assert 3.0 < slow.decode_step_s / before.decode_step_s < 5.0
        engine.slow_down(1.0)
        await decode(120)
        assert worker.status().performance == before

    in_cluster(work)


def test_requests_go_to_the_worker_that_is_not_slow() -> None:
    """Of two equal decode workers the one that measures itself four times as slow gets the fewer requests."""

    async def work(cluster: InProcessCluster) -> None:
        cluster.engines["decode-0"].slow_down(4.0)
        chosen: list[str] = []
        for turn in range(40):
            asked = request(f"r{turn}", first=300 + 40 * turn, max_tokens=60)
            await tokens_of(cluster.gateways[0], asked, preference=PathPreference.LOCAL)
            record = cluster.gateways[0].record(asked.request_id)
            assert record is not None
            assert record.placement is not None
            chosen.append(record.placement.worker_id)
        assert chosen[20:].count("decode-1") > 15

    in_cluster(work, decode=2)
