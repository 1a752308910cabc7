"""A cluster on a local Ray cluster: what dies comes back and no request is lost, the planner scales a pool.

Engines are simulated, since a Ray cluster is heavy enough; `tests.bench.bench_ray_live` does it with vLLM.
"""

import asyncio
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from planner.decision import Decision, PoolOrder
from planner.targets.ray import RayServe
from planner.targets.ray_settings import DeploymentSettings, RayServeSettings
from services.domain.worker import Phase
from tests.cli.command import SIMULATED, Up, baton_up
from tests.live.cluster import DEADLINE_S, RunningCluster, until
from tests.live.processes import naming
from tests.live.questions import learn, make_questions, plain_channel, stream_grpc

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, as Ray's sockets need, with a token of this test's own."""
    made = Path(tempfile.mkdtemp(prefix="ray-"))
    (made / "token").write_text(secrets.token_hex(32), encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(made / "token"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def up(folder: Path) -> AsyncIterator[Up]:
    """One prefill and two decode workers on a Ray cluster that claims four CPUs."""
    config = folder / "ray.yaml"
    config.write_text(
        f"ray: {{local_cpus: 5, local_dashboard_port: 0, local_folder: {folder}}}\n"
        "simulated: {context_tokens_max: 4096}\n"
        "router: {early_rejection: false}\n",
        encoding="utf-8",
    )
    async with baton_up(
        folder, "--on", "ray", *SIMULATED, "--decode", "2", "--config", str(config)
    ) as opened:
        await until(lambda: "gRPC" in opened.out or opened.process.returncode is not None)
        assert opened.process.returncode is None, opened.err
        yield opened


def reached(up: Up) -> tuple[RunningCluster, str]:
    """Find the gateway and Serve's REST API."""
    match = re.search(r"Ray +(?P<url>\S+), logs in (?P<logs>\S+)", up.out)
    assert match is not None, up.out
    logs = Path(match["logs"])
    (ports,) = logs.glob("gateway-*.ports")
    return RunningCluster(logs, ports.stem), match["url"]


async def workers(cluster: RunningCluster, role: str) -> frozenset[str]:
    """Ids of the workers of one role."""
    return frozenset(w.worker_id for w in (await cluster.state()).workers if w.phases == [role])


async def test_what_dies_comes_back_the_planner_scales_and_nothing_is_lost(up: Up) -> None:
    """Every stream goes on to its end with the tokens it would have had; at the end nothing is left."""
    cluster, url = reached(up)
    questions = make_questions(12, output_tokens=(300, 400))
    truth = await learn(cluster, questions)
    before = await workers(cluster, "decode")

    async with plain_channel(cluster) as channel:
        streams = [
            asyncio.ensure_future(stream_grpc(channel, question, f"truth {i}"))
            for i, question in enumerate(questions)
        ]
        await cluster.becomes(lambda state: sum(w.load.running_count for w in state.workers) > 0)
        lost = min(before)
        (pid,) = naming(str(cluster.folder / f"{lost}.json"))
        os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*streams)
    assert all(answer.matches(truth[q]) for q, answer in zip(questions, answers, strict=True)), answers

    pools = (
        DeploymentSettings(phase=Phase.PREFILL, application="local-prefill"),
        DeploymentSettings(phase=Phase.DECODE, application="local-decode"),
    )
    target = RayServe(RayServeSettings(deployments=pools, url=url), now_s=time.monotonic)
    ready: dict[Phase, int] = {}
    async with asyncio.timeout(DEADLINE_S):
        while ready != {Phase.PREFILL: 1, Phase.DECODE: 2}:
            ready = {pool.phase: pool.ready_count for pool in await target.pools()}
            await asyncio.sleep(0.2)
    assert len((await workers(cluster, "decode")) - before) == 1, "its replica came back under another name"

    outcome = await target.carry_out(
        Decision(
            orders=(
                PoolOrder(phase=Phase.PREFILL, kind="default", worker_count=2),
                PoolOrder(phase=Phase.DECODE, kind="default", worker_count=1),
            ),
            look_s=10.0,
        )
    )
    assert outcome.done == ("local-prefill: 1 → 2", "local-decode: 2 → 1")
    await target.close()
    async with asyncio.timeout(DEADLINE_S):
        while [len(await workers(cluster, role)) for role in ("prefill", "decode")] != [2, 1]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    members, ports = up.family(), up.ports()
    up.process.send_signal(signal.SIGINT)
    assert await up.ends() == 0, up.err
    await up.leaves_nothing(members, ports)
