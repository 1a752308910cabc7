"""Two planners on one server, candidates for one lease."""

import asyncio
from dataclasses import dataclass, field

from planner.targets.kubernetes.settings import LeaseSettings
from planner.targets.kubernetes.target import Kubernetes
from planner.targets.port import TargetUnavailable
from tests.planner.kubernetes import scene
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.scene import LEASE, orders
from tests.planner.kubernetes.wire import Wire

TERMS = LeaseSettings(name="baton-planner")


def named(name: str) -> LeaseSettings:
    """Terms of one candidate."""
    return LeaseSettings(name="baton-planner", identity=name)


async def settled() -> None:
    """Let all that is on its way arrive; takes no time."""
    for _ in range(100):
        await asyncio.sleep(0)


@dataclass
class Pair:
    """Two planners on one server, each over a wire of its own."""

    api: ApiState = field(default_factory=scene.state)
    wires: list[Wire] = field(default_factory=list)
    targets: list[Kubernetes] = field(default_factory=list)

    async def start(self) -> None:
        """Start both, the first a moment earlier, so that it leads."""
        for name in ("first", "second"):
            wire = Wire(self.api)
            self.wires.append(wire)
            self.targets.append(scene.target(wire, scene.settings(lease=named(name))))
            await self.targets[-1].pools()
            await settled()

    async def act(self, index: int, prefill: int) -> tuple[str, ...]:
        """Let one planner decide; what it left, and why."""
        await settled()
        try:
            await self.targets[index].pools()
            return (await self.targets[index].carry_out(orders(prefill, 3))).left
        except TargetUnavailable as error:
            return (str(error),)

    async def close(self) -> None:
        """Stop both."""
        for target in self.targets:
            await target.close()

    @property
    def holder(self) -> str:
        """Who the server says holds the lease."""
        return str(self.api.objects[LEASE]["spec"].get("holderIdentity"))


async def begun() -> Pair:
    """A pair whose first leads."""
    pair = Pair()
    await pair.start()
    return pair
