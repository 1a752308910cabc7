"""`baton up` leaves no process and no port behind, however it ends."""

import signal
from pathlib import Path

import pytest

from tests.cli.command import SIMULATED, baton_up
from tests.live.cluster import RunningCluster
from tests.live.processes import alive

WORKERS = "workers"
CHILDREN = 3
"""NATS, the workers, the gateway."""
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_everything_in_order(
    tmp_path: Path, cluster: RunningCluster, number: signal.Signals
) -> None:
    """Exit code 0, nothing left, nothing killed; another cluster beside it does not notice."""
    async with baton_up(tmp_path, *SIMULATED) as up:
        started = await up.becomes_ready()
        assert not {started.http_port, started.grpc_port} & {cluster.http_port, cluster.grpc_port}
        members, ports = up.family(), up.ports()
        assert len(members) == 1 + CHILDREN
        assert ports > {started.http_port, started.grpc_port}
        up.process.send_signal(number)
        assert await up.ends() == 0
        assert not alive(members), "the command ended before its processes"
        await up.leaves_nothing(members, ports)
        assert "had to kill" not in up.err
        assert "Traceback" not in up.out + up.err
    assert len((await cluster.state()).workers) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_during_the_start_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """While engines still load the answer to a signal is the same."""
    config = tmp_path / "slow.yaml"
    config.write_text("simulated: {start_s: 3600}\n", encoding="utf-8")
    async with baton_up(tmp_path, *SIMULATED, "--config", str(config)) as up:
        await up.starts(CHILDREN)
        members, ports = up.family(), up.ports()
        up.process.send_signal(number)
        assert await up.ends() == 0
        await up.leaves_nothing(members, ports)
        assert "Traceback" not in up.out + up.err


async def test_nothing_outlives_a_killed_command(tmp_path: Path) -> None:
    """After kill -9 its processes end by themselves: the kernel tells them."""
    async with baton_up(tmp_path, *SIMULATED) as up:
        await up.becomes_ready()
        members, ports = up.family(), up.ports()
        up.process.kill()
        await up.ends()
        await up.leaves_nothing(members, ports)


async def test_a_process_that_dies_too_often_is_an_error(tmp_path: Path) -> None:
    """The command names it, tells how often it was replaced, ends the others and fails."""
    config = tmp_path / "impatient.yaml"
    config.write_text("supervision: {restarts_max: 1}\n", encoding="utf-8")
    async with baton_up(tmp_path, *SIMULATED, "--config", str(config)) as up:
        await up.becomes_ready()
        members, ports = up.family(), up.ports()
        up.kill(WORKERS)
        await up.says("workers is back after")
        members, ports = members | up.family(), ports | up.ports()
        up.kill(WORKERS)
        assert await up.ends() == 1
        assert "workers was ended by SIGKILL; it was started again 1 times within 600 s" in up.err
        assert f"logs are in {up.folder}" in up.err
        await up.leaves_nothing(members, ports)


async def test_a_failed_start_leaves_nothing(tmp_path: Path, cluster: RunningCluster) -> None:
    """A port that another cluster has is named, and what was started before is ended."""
    for flag, port in (("--http-port", cluster.http_port), ("--grpc-port", cluster.grpc_port)):
        folder = tmp_path / flag
        folder.mkdir()
        async with baton_up(folder, *SIMULATED, flag, str(port)) as up:
            code = await up.ends()
            assert code in (1, 2)
            key = flag.removeprefix("--").replace("-", "_")
            assert key in up.err
            assert str(port) in up.err
            await up.leaves_nothing(frozenset(), frozenset())
    assert len((await cluster.state()).workers) == 4
