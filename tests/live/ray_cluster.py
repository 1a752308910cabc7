"""A `baton up --on ray` as tests see it: its gateway, its workers, and its pools as the planner sees them.

Comes in: a running command. Goes out: addresses, ids, counts. Invariant: Ray's token is one of its own.
"""

import asyncio
import re
import secrets
import time
from pathlib import Path

from planner.decision import Decision, PoolOrder
from planner.targets.port import Outcome
from planner.targets.ray import RayServe
from planner.targets.ray_settings import DeploymentSettings, RayServeSettings
from services.domain.worker import Phase
from tests.cli.command import NEWS_S, Up
from tests.live.cluster import RunningCluster, until

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

    async def becomes(self, *, prefill: int, decode: int) -> None:
        """Wait until Serve and the gateway agree that so many workers serve.

        Raises:
            TimeoutError: they do not.
        """
        wanted = {Phase.PREFILL: prefill, Phase.DECODE: decode}
        async with asyncio.timeout(NEWS_S):
            while True:
                pools = await self.target.pools()
                known = {phase: len(await self.workers(phase)) for phase in wanted}
                if known == wanted and {pool.phase: pool.ready_count for pool in pools} == wanted:
                    return
                await asyncio.sleep(POLL_S)


async def becomes_ready(up: Up) -> OnRay:
    """Wait until the command says that everything serves; it gives up by itself."""
    await until(lambda: "\n  Ray " in up.out or up.process.returncode is not None, START_S)
    assert up.process.returncode is None, up.err
    return OnRay(up)
