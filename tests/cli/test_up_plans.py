"""`baton up --plan`: workers are started, turned and let go while requests are served, and none is lost."""

import asyncio
import itertools
import re
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

import httpx
import msgspec
import pytest

from services.domain.pools import Launched
from services.domain.worker import Phase
from tests.cli.command import SIMULATED, Up, baton, baton_up
from tests.live.cluster import DEADLINE_S, POLL_S, RunningCluster
from tests.live.questions import AUTO, REMOTE, Question, make_questions, plain_channel, stream_grpc

pytestmark = pytest.mark.timeout(300)

PLANNER = """
planner:
  look_s: 0.5
  kinds: [{name: default, start_s: 1, workers_max: 3}]
  limits: {decode: {workers_min: 2}}
"""
CLIENTS = 3
QUESTIONS = 6
SALT = "plan"
"""Of the cache; a simulated engine writes other tokens for another one."""


class Site:
    """A cluster whose pools change, and its launcher."""

    def __init__(self, up: Up, cluster: RunningCluster) -> None:
        """Find the launcher by what `baton up` printed."""
        found = re.search(r"launcher +(http\S+)", up.out)
        assert found
        self.up = up
        self.cluster = cluster
        self._url = found[1]

    async def scale(self, *arguments: str) -> None:
        """Run `baton scale`."""
        ended = await baton("scale", "--url", self._url, *arguments)
        assert ended.code == 0, ended.err

    async def becomes(self, prefill: int, decode: int) -> None:
        """Wait until so many workers serve, no other is there, and the gateway knows their roles."""
        async with (
            asyncio.timeout(DEADLINE_S),
            httpx.AsyncClient(base_url=self._url, trust_env=False) as http,
        ):
            while True:
                state = msgspec.json.decode((await http.get("/pools")).content, type=Launched)
                if self._is(state, prefill, decode) and await self._known(prefill, decode):
                    return
                await asyncio.sleep(POLL_S)

    @staticmethod
    def _is(state: Launched, prefill: int, decode: int) -> bool:
        pools = {pool.phase: pool for pool in state.pools}
        settled = not any(pool.starting_s or pool.draining_count for pool in state.pools)
        return settled and (pools[Phase.PREFILL].ready_count, pools[Phase.DECODE].ready_count) == (
            prefill,
            decode,
        )

    async def _known(self, prefill: int, decode: int) -> bool:
        workers = (await self.cluster.state()).workers
        return sorted(worker.phases for worker in workers) == [["decode"]] * decode + [["prefill"]] * prefill


class Asking:
    """Clients that ask one question after another; each answer must be that of the quiet cluster."""

    def __init__(self, cluster: RunningCluster, asked: Sequence[Question]) -> None:
        """Prepare; nobody asks yet."""
        self._cluster = cluster
        self._asked = asked
        self._count = 0
        self._more = asyncio.Condition()

    async def __aenter__(self) -> Self:
        """Learn the answers, then begin."""
        self._channel = plain_channel(self._cluster)
        self._truth = {each: await stream_grpc(self._channel, each, SALT) for each in self._asked}
        assert all(answer.endings == ("length",) for answer in self._truth.values())
        self._clients = [asyncio.ensure_future(self._client(index)) for index in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let nobody ask any more."""
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._channel.close()

    async def more(self, count: int = 3 * CLIENTS) -> None:
        """Wait until so many more answers are there, all exact."""
        goal = self._count + count
        async with asyncio.timeout(DEADLINE_S), self._more:
            await self._more.wait_for(lambda: self._count >= goal or any(c.done() for c in self._clients))
        for client in self._clients:
            if client.done():
                client.result()

    async def _client(self, index: int) -> None:
        for question in itertools.islice(itertools.cycle(self._asked), index, None):
            path = REMOTE if self._count % 2 else AUTO
            answer = await stream_grpc(self._channel, question, SALT, path)
            assert answer == self._truth[question]
            async with self._more:
                self._count += 1
                self._more.notify_all()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """One prefill and one decode worker, and a planner that wants two of the latter, three in all."""
    plan, config = tmp_path / "planner.yaml", tmp_path / "cluster.yaml"
    plan.write_text(PLANNER, encoding="utf-8")
    config.write_text("supervision: {backoff_min_s: 0.1}\nlauncher: {port: 0}\n", encoding="utf-8")
    async with baton_up(tmp_path, *SIMULATED, "--config", str(config), "--plan", str(plan)) as up:
        yield Site(up, await up.becomes_ready())


async def test_pools_change_under_traffic_and_nothing_is_lost(site: Site) -> None:
    """The planner starts, turns and lets go, whatever a person or a kill does in between; all is exact."""
    async with Asking(site.cluster, make_questions(QUESTIONS)) as asking:
        await site.becomes(1, 2)
        assert "worker-2 is started for decode" in site.up.err
        await site.scale("--turn", "worker-1=prefill")
        await site.up.says("is turned to decode")
        await site.becomes(1, 2)
        assert "worker-3" not in site.up.err, "a worker was started where turning one was enough"
        site.up.kill("planner")
        await asking.more()
        await site.scale("prefill=2", "--hold", "prefill")
        await site.becomes(2, 2)
        await site.up.says("planner is back after")
        await asking.more()
        await site.scale("--release", "prefill")
        await site.becomes(1, 2)
        await asking.more()
    assert site.up.err.count("ended in order, as it was asked to") == 1
    site.up.process.send_signal(signal.SIGINT)
    assert await site.up.ends() == 0
    assert not re.search("had to kill|WARNING|Traceback", site.up.err)
