"""A cluster on Ray: workers and a node that die come back, a planner scales and turns, no request is lost.

Engines are simulated, since a Ray cluster is heavy enough; `tests.bench.bench_ray_live` does it with vLLM.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.domain.worker import Phase
from tests.cli.command import SIMULATED, Up, baton_up
from tests.live.processes import naming
from tests.live.questions import Question, learn, make_questions, plain_channel, stream_grpc
from tests.live.ray_cluster import OnRay, becomes_ready, make_token
from tests.planner.asked import LONG_ANSWERS, LONG_PROMPTS, NOTHING, Asked
from tests.planner.gateway_page import GatewayPage

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

STREAMS = 4


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, as Ray's sockets need."""
    made = Path(tempfile.mkdtemp(prefix="ray-"))
    for name, value in make_token(made).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def up(folder: Path) -> AsyncIterator[Up]:
    """One prefill and one decode worker, and no room for more on this node."""
    config = folder / "ray.yaml"
    config.write_text(
        f"ray: {{local_cpus: 3, local_dashboard_port: 0, local_folder: {folder}}}\n"
        "simulated: {context_tokens_max: 4096}\n"
        "router: {early_rejection: false}\n",
        encoding="utf-8",
    )
    async with baton_up(folder, "--on", "ray", *SIMULATED, "--config", str(config)) as opened:
        yield opened


@asynccontextmanager
async def asking(ray: OnRay) -> AsyncIterator[asyncio.Event]:
    """Ask questions until the block ends; every stream has the tokens of an undisturbed run, and one end.

    Yields:
        To be set before nobody is left that decodes: who asks just then is turned away, and asks again.
    """
    questions = make_questions(STREAMS, output_tokens=(300, 400))
    truth = await learn(ray.cluster, questions)
    over, nobody_decodes = asyncio.Event(), asyncio.Event()
    async with plain_channel(ray.cluster) as channel, asyncio.TaskGroup() as group:

        async def ask(place: int, question: Question) -> None:
            while not over.is_set():
                answer = await stream_grpc(channel, question, f"truth {place}")
                if (
                    nobody_decodes.is_set()
                    and not answer.token_ids
                    and answer.endings[0].startswith("UNAVAILABLE")
                ):
                    await ray.becomes(prefill=1, decode=1)
                    continue
                assert answer.matches(truth[question]), answer

        for place, question in enumerate(questions):
            group.create_task(ask(place, question))
        await ray.cluster.becomes(lambda state: sum(w.load.running_count for w in state.workers) > 0)
        yield nobody_decodes
        over.set()


@asynccontextmanager
async def planned(ray: OnRay, folder: Path) -> AsyncIterator[Asked]:
    """Run a planner that sees the demand of a page."""
    asked = Asked()
    page = GatewayPage(asked)
    try:
        async with ray.planner(page.url, folder):
            yield asked
    finally:
        page.close()


async def loses(ray: OnRay, lost: Collection[str]) -> None:
    """Wait until nobody knows these workers."""
    await ray.cluster.becomes(lambda state: not {worker.worker_id for worker in state.workers} & {*lost})


async def test_what_dies_comes_back_and_a_planner_scales_and_turns(up: Up, folder: Path) -> None:
    """A planner's process; a node that joins, is lost and is replaced; a killed worker; an orderly end."""
    ray = await becomes_ready(up)
    first = await ray.workers(Phase.DECODE)
    async with asking(ray) as nobody_decodes:
        async with planned(ray, folder) as asked, ray.node(cpus=1) as node:
            asked.take(LONG_ANSWERS)
            await ray.becomes(prefill=1, decode=2)
            asked.take(LONG_PROMPTS)
            await ray.becomes(prefill=1, decode=2, turned=1)
            asked.take(LONG_ANSWERS)
            await ray.becomes(prefill=1, decode=2)
            there = await ray.workers(Phase.DECODE) - first
            await node.is_lost()
            await loses(ray, there)
            async with ray.node(cpus=1):
                await ray.becomes(prefill=1, decode=2)
                asked.take(NOTHING)
                await ray.becomes(prefill=1, decode=1)
        (lost,) = await ray.workers(Phase.DECODE)
        (pid,) = naming(str(ray.logs / f"{lost}.json"))
        nobody_decodes.set()
        os.kill(pid, signal.SIGKILL)
        await loses(ray, [lost])
        await ray.becomes(prefill=1, decode=1)
    await ray.target.close()

    members, ports = up.family(), up.ports()
    up.process.send_signal(signal.SIGINT)
    assert await up.ends() == 0, up.err
    await up.leaves_nothing(members, ports)
