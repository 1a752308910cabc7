"""`baton up` keeps its cluster up: what dies or freezes is replaced where clients know it to be."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.command import SIMULATED, Up, baton, baton_up
from tests.live.cluster import DEADLINE_S, POLL_S, RunningCluster
from tests.live.processes import alive

pytestmark = pytest.mark.timeout(600)

KINDS = ("workers", "gateway", "gateway-1", "router", "nats")
FREEZES_S = 3


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    """A cluster with every kind of process, whose supervisor is quick."""
    config = tmp_path / "quick.yaml"
    config.write_text(
        "gateways: 2\nstandalone_router: true\n"
        "supervision: {backoff_min_s: 0.1, liveness_period_s: 0.5, "
        f"liveness_timeout_s: {FREEZES_S}}}\n",
        encoding="utf-8",
    )
    async with baton_up(tmp_path, *SIMULATED, "--config", str(config)) as opened:
        yield opened


async def serves(cluster: RunningCluster) -> None:
    """Have a request served where the cluster was reached from the beginning, once workers are linked."""
    async with asyncio.timeout(DEADLINE_S):
        while (await baton("chat", "--url", cluster.url, "--max-tokens", "5", "hello")).code:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


async def test_every_kind_of_process_is_replaced(up: Up) -> None:
    """Killed one after another, each comes back, on its own port, and the cluster serves after each."""
    cluster = await up.becomes_ready()
    known = up.pid("gateway-1"), up.pid("nats")
    for kind in KINDS:
        up.kill(kind)
        await up.says(f"{kind} was ended by SIGKILL; starting it again in 0.1 s")
        await up.says(f"{kind} is back after")
        await serves(cluster)
    again = RunningCluster(up.folder)
    assert (again.http_port, again.grpc_port) == (cluster.http_port, cluster.grpc_port)
    assert not {up.pid("gateway-1"), up.pid("nats")} & set(known)
    assert len(up.family()) == 1 + len(KINDS), "a zombie, or one process too many"
    up.process.send_signal(signal.SIGINT)
    assert await up.ends() == 0


async def test_a_frozen_process_is_replaced(up: Up) -> None:
    """Stopped processes exist and answer nothing: noticed by asking, all at once, each replaced."""
    cluster = await up.becomes_ready()
    members, ports = up.family(), up.ports()
    for kind in KINDS:
        up.kill(kind, signal.SIGSTOP)
    for kind in KINDS:
        await up.says(f"{kind} did not answer for")
        await up.says(f"{kind} is back after")
    await serves(cluster)
    members, ports = members | up.family(), ports | up.ports()
    up.process.send_signal(signal.SIGTERM)
    assert await up.ends() == 0
    await up.leaves_nothing(members, ports)


async def test_what_was_drained_on_purpose_stays_away(up: Up) -> None:
    """A process that got SIGTERM from its operator ends in order and is not wanted back."""
    await up.becomes_ready()
    up.kill("gateway-1", signal.SIGTERM)
    await up.says("gateway-1 ended in order; it stays away")
    up.kill("gateway")
    await up.says("gateway is back after")
    assert "gateway-1 is back" not in up.err


@pytest.mark.parametrize("moment", ["before the start", "during the start"])
async def test_a_signal_in_the_middle_of_a_restart_ends_everything(tmp_path: Path, moment: str) -> None:
    """While a process is dead, or half started, Ctrl-C still ends all of it with exit code 0."""
    backoff_s = 600 if moment == "before the start" else 0.1
    config = tmp_path / "slow.yaml"
    config.write_text(f"supervision: {{backoff_min_s: {backoff_s}, backoff_max_s: 600}}\n", encoding="utf-8")
    async with baton_up(tmp_path, *SIMULATED, "--config", str(config)) as up:
        await up.becomes_ready()
        members, ports = up.family(), up.ports()
        up.kill("workers")
        await up.says("workers was ended by SIGKILL")
        if moment == "during the start":
            await up.starts(len(members) - 1)
        members |= up.family()
        up.process.send_signal(signal.SIGINT)
        assert await up.ends() == 0
        assert not alive(members)
        await up.leaves_nothing(members, ports)
        assert "Traceback" not in up.out + up.err
