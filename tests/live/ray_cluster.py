"""A `baton up --on ray` as tests see it: its gateway, its workers, its pools, more nodes, a planner.

Comes in: a running command. Goes out: addresses, ids, counts. Invariant: Ray's token is one of its own.
"""

import asyncio
import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from planner.decision import Decision, PoolOrder
from planner.targets.port import Outcome, TargetUnavailable
from planner.targets.ray import RayServe
from planner.targets.ray_settings import DeploymentSettings, RayServeSettings
from services.domain.worker import Phase
from services.gateway.process_settings import GatewayProcessSettings
from services.runtime.settings import parse, read_yaml
from tests.cli.command import BATON, NEWS_S, Up
from tests.live.cluster import RunningCluster, until
from tests.live.processes import alive, describe, family
from tests.planner.asked import THREE_WORKERS

POOLS = (
    DeploymentSettings(phase=Phase.PREFILL, application="local-prefill"),
    DeploymentSettings(phase=Phase.DECODE, application="local-decode"),
)
POLL_S = 0.2
START_S = 900.0
"""Above `start_timeout_s` and the end after it."""


def make_token(folder: Path) -> dict[str, str]:
    """Make a token for a Ray cluster; returns the environment in which Ray finds it."""
    file = folder / "token"
    file.write_text(secrets.token_hex(32), encoding="utf-8")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}


class OnRay:
    """One cluster that is up."""

    def __init__(self, up: Up) -> None:
        """Find the gateway and Serve's REST API in what the command printed."""
        match = re.search(r"Ray +(?P<url>\S+), logs in (?P<logs>\S+)", up.out)
        assert match is not None, up.out
        self.logs = Path(match["logs"])
        self._url = match["url"]
        self._up = up
        (ports,) = self.logs.glob("gateway-*.ports")
        self.cluster = RunningCluster(self.logs, ports.stem)
        self.target = RayServe(RayServeSettings(deployments=POOLS, url=match["url"]), now_s=time.monotonic)

    async def workers(self, phase: Phase) -> frozenset[str]:
        """Ids of the workers of one role, as the gateway knows them."""
        state = await self.cluster.state()
        return frozenset(worker.worker_id for worker in state.workers if worker.phases == [phase.value])

    async def scales(self, *, prefill: int, decode: int) -> Outcome:
        """Have both pools sized as a planner does."""
        await self.target.pools()
        orders = (
            PoolOrder(phase=Phase.PREFILL, kind="default", worker_count=prefill),
            PoolOrder(phase=Phase.DECODE, kind="default", worker_count=decode),
        )
        return await self.target.carry_out(Decision(orders=orders, look_s=10.0))

    async def becomes(self, *, prefill: int, decode: int, turned: int = 0) -> None:
        """Wait until Serve has so many workers that serve, and the gateway knows them by their roles.

        Args:
            prefill: replicas of the prefill pool.
            decode: replicas of the decode pool.
            turned: of these, how many are prefill workers now.

        Raises:
            AssertionError: they do not.
        """
        sizes = {Phase.PREFILL: prefill, Phase.DECODE: decode}
        roles = {Phase.PREFILL: prefill + turned, Phase.DECODE: decode - turned}
        seen: object = None
        try:
            async with asyncio.timeout(NEWS_S):
                while seen != (sizes, roles):
                    await asyncio.sleep(POLL_S)
                    with contextlib.suppress(TargetUnavailable):  # as after a node was lost, for some seconds
                        ready = {pool.phase: pool.ready_count for pool in await self.target.pools()}
                        seen = ready, {phase: len(await self.workers(phase)) for phase in Phase}
        except TimeoutError:
            raise AssertionError(f"{seen} did not become {(sizes, roles)}") from None

    @asynccontextmanager
    async def node(self, *, cpus: int) -> AsyncIterator["Node"]:
        """Have another node join, on this machine; it is lost when the block ends."""
        told = "\n".join(describe(process) for process in self._up.family())
        address = re.search(r"--gcs-address=(\S+)", told)
        assert address is not None, told
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.live.ray_node", address[1], str(cpus))
        )
        node = Node(process)
        try:
            yield node
        finally:
            await node.is_lost()

    @asynccontextmanager
    async def planner(self, page_url: str, folder: Path) -> AsyncIterator[None]:
        """Run a planner of this cluster that sees the demand of a page.

        Args:
            page_url: a gateway's metrics.
            folder: for its settings and its log.
        """
        (file,) = self.logs.glob("gateway-*.json")
        gateway = parse(GatewayProcessSettings, read_yaml(file), source=str(file))
        settings = {
            "planner": THREE_WORKERS,
            "observe": {"source": "gateways", "urls": [page_url], "bus": gateway.bus},
            "target": {"target": "ray", "url": self._url, "deployments": POOLS},
        }
        chosen = folder / "planner.json"
        chosen.write_bytes(msgspec.json.encode(settings))
        with (folder / "up.planner").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *BATON, "planner", "--settings", str(chosen), stdout=log, stderr=log
            )
        try:
            yield
            process.terminate()
            assert await process.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Node:
    """One more node, with all that runs on it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Take it as started."""
        self._process = process

    async def is_lost(self) -> None:
        """Lose it at once: Ray's programs, replicas, their workers. Idempotent."""
        for member in alive(family(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, 9)
        await self._process.wait()


async def becomes_ready(up: Up) -> OnRay:
    """Wait until the command says that everything serves; it gives up by itself."""
    await until(lambda: "\n  Ray " in up.out or up.process.returncode is not None, START_S)
    assert up.process.returncode is None, up.err
    return OnRay(up)
