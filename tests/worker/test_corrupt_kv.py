"""KV that changes on its way is found, the request is computed again, and an engine that repeats it goes."""

import asyncio

from services.cluster.inprocess import InProcessCluster
from services.domain.ids import EngineEpoch, WorkerId
from services.domain.integrity import KvChecked
from services.domain.placement import PathPreference
from services.domain.worker import Phase
from services.engine.port import EngineStep
from services.runtime.clock import run_virtual
from tests.cluster.test_requests_in_process import in_cluster, request, tokens_of, truth


def counted(cluster: InProcessCluster, line: str) -> float:
    """Read a counter; 0 when it was never counted."""
    for text in cluster.meters.render().decode().splitlines():
        if text.startswith(f"{line} "):
            return float(text.rpartition(" ")[2])
    return 0.0


def test_corrupt_kv_costs_time_and_no_token() -> None:
    """The client gets exactly its tokens; the mismatch is counted, and the worker goes on."""

    async def work(cluster: InProcessCluster) -> None:
        cluster.engines["decode-0"].corrupt_next_pulls(1)
        for name in ("first", "second"):
            asked = request(name, first=300 if name == "first" else 900)
            got = await tokens_of(cluster.gateways[0], asked, preference=PathPreference.REMOTE)
            assert got == truth(asked)
        assert counted(cluster, 'baton_kv_checks_total{outcome="mismatched"}') == 1
        assert counted(cluster, 'baton_kv_checks_total{outcome="matched"}') == 1
        assert counted(cluster, 'baton_fallbacks_total{cause="kv_corrupt"}') == 1
        assert not cluster.workers["decode-0"].failed.is_set()
        assert not any(cluster.leftovers().values())

    in_cluster(work)


def test_a_worker_that_repeats_it_gives_itself_up() -> None:
    """With the third mismatch the worker declares itself failed; until then and then no token is wrong."""

    async def work(cluster: InProcessCluster) -> None:
        worker = cluster.workers["decode-0"]
        cluster.engines["decode-0"].corrupt_next_pulls(3)
        for turn in range(3):
            assert not worker.failed.is_set()
            asked = request(f"r{turn}", first=300 + 500 * turn)
            got = await tokens_of(cluster.gateways[0], asked, preference=PathPreference.REMOTE)
            assert got == truth(asked)
        assert worker.failed.is_set()

    in_cluster(work)


def test_seeded_output_stays_exact() -> None:
    """A seeded request, whose first token decode must write itself, is exact after a mismatch as well."""

    async def work(cluster: InProcessCluster) -> None:
        cluster.engines["decode-0"].corrupt_next_pulls(1)
        asked = request("seeded", seed=7)
        assert await tokens_of(cluster.gateways[0], asked, preference=PathPreference.REMOTE) == truth(asked)
        assert counted(cluster, 'baton_kv_checks_total{outcome="mismatched"}') == 1

    in_cluster(work)


def test_a_worker_whose_kv_arrives_changed_everywhere_gives_itself_up() -> None:
    """A prefill worker that a decode worker accuses in its status goes; accuser and peers stay."""

    async def work(cluster: InProcessCluster) -> None:
        bad, good, accuser = (cluster.workers[name] for name in ("prefill-0", "prefill-1", "decode-0"))
        found = [KvChecked(source=good.worker_id, epoch=good.epoch, matched=True)]
        found += [KvChecked(source=bad.worker_id, epoch=bad.epoch, matched=False)] * 3
        accuser._stepped(EngineStep(kv_checks=tuple(found)))
        assert accuser.status().suspects == (bad.epoch,)
        async with asyncio.timeout(10.0):
            await bad.failed.wait()
        assert not good.failed.is_set()
        assert not accuser.failed.is_set()
        await cluster.kill_worker("prefill-0")
        await cluster.start_worker("prefill-0")
        await asyncio.sleep(5.0)
        assert not cluster.workers["prefill-0"].failed.is_set(), "a new life is not accused"

    in_cluster(work, prefill=2)


def test_an_accusation_ends() -> None:
    """After the window nobody is accused any more."""

    async def main() -> None:
        cluster = InProcessCluster({"prefill-0": (Phase.PREFILL,), "decode-0": (Phase.DECODE,)})
        await cluster.start()
        worker = cluster.workers["decode-0"]
        other, gone = WorkerId("p"), EngineEpoch("gone")
        found = [KvChecked(source=other, epoch=EngineEpoch("good"), matched=True)]
        found += [KvChecked(source=other, epoch=gone, matched=False)] * 3
        worker._stepped(EngineStep(kv_checks=tuple(found)))
        assert worker.status().suspects == (gone,)
        await asyncio.sleep(601.0)
        assert worker.status().suspects == ()
        await cluster.stop()

    run_virtual(main())
