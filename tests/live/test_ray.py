"""A cluster on a local Ray cluster: what dies comes back and no request is lost, the planner scales a pool.

Engines are simulated, since a Ray cluster is heavy enough; `tests.bench.bench_ray_live` does it with vLLM.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.domain.worker import Phase
from tests.cli.command import SIMULATED, Up, baton_up
from tests.live.processes import naming
from tests.live.questions import learn, make_questions, plain_channel, stream_grpc
from tests.live.ray_cluster import OnRay, becomes_ready, make_token

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]


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
    """One prefill and two decode workers, and room for more."""
    config = folder / "ray.yaml"
    config.write_text(
        f"ray: {{local_cpus: 5, local_dashboard_port: 0, local_folder: {folder}}}\n"
        "simulated: {context_tokens_max: 4096}\n"
        "router: {early_rejection: false}\n",
        encoding="utf-8",
    )
    options = ("--on", "ray", *SIMULATED, "--decode", "2", "--config", str(config))
    async with baton_up(folder, *options) as opened:
        yield opened


async def loses_a_worker_but_no_request(ray: OnRay) -> str:
    """Every stream goes on to its end with the tokens that it would have had; returns who was lost."""
    questions = make_questions(12, output_tokens=(300, 400))
    truth = await learn(ray.cluster, questions)
    async with plain_channel(ray.cluster) as channel:
        streams = [
            asyncio.ensure_future(stream_grpc(channel, question, f"truth {i}"))
            for i, question in enumerate(questions)
        ]
        await ray.cluster.becomes(lambda state: sum(w.load.running_count for w in state.workers) > 0)
        lost = min(await ray.workers(Phase.DECODE))
        (pid,) = naming(str(ray.logs / f"{lost}.json"))
        os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*streams)
    assert all(answer.matches(truth[q]) for q, answer in zip(questions, answers, strict=True)), answers
    return lost


async def test_what_dies_comes_back_and_the_planner_scales(up: Up) -> None:
    """A killed worker's replica is replaced, pools take the planner's sizes; at the end nothing is left."""
    ray = await becomes_ready(up)
    before = await ray.workers(Phase.DECODE)
    lost = await loses_a_worker_but_no_request(ray)
    await ray.cluster.becomes(lambda state: lost not in {worker.worker_id for worker in state.workers})
    await ray.becomes(prefill=1, decode=2)
    assert len(await ray.workers(Phase.DECODE) - before) == 1

    outcome = await ray.scales(prefill=2, decode=1)
    assert outcome.done == ("local-prefill: 1 → 2", "local-decode: 2 → 1")
    await ray.becomes(prefill=2, decode=1)
    await ray.target.close()

    members, ports = up.family(), up.ports()
    up.process.send_signal(signal.SIGINT)
    assert await up.ends() == 0, up.err
    await up.leaves_nothing(members, ports)
