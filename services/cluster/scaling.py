"""What changes the pools of a cluster on this machine: bus, roster, crew, launcher and its port, together.

Comes in: the processes of a cluster that serves. Goes out: an address for orders. Invariant: `close` leaves
neither port nor task; the processes stay with the cluster.
Not here: what an order does (`services.cluster.launcher`).
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable

from services.bus import nats as nats_bus
from services.bus.port import Bus
from services.bus.settings import BusSettings
from services.cluster.crew import Crew
from services.cluster.launcher import Launcher
from services.cluster.launcher_port import LauncherPort
from services.cluster.plan import ProcessSpec
from services.cluster.processes import Children
from services.cluster.roster import Member, Role, Roster
from services.cluster.settings import LauncherSettings
from services.cluster.supervisor import Supervisor

_VERSION_BITS = 48
"""Of the first version: two lives of a launcher share none by chance."""


class Scaling:
    """Everything that scales one cluster."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._bus: Bus | None = None
        self._crew: Crew | None = None
        self._port: LauncherPort | None = None
        self.url = ""
        """Where orders are taken; known once it is open."""

    async def open(
        self,
        settings: LauncherSettings,
        bus: BusSettings,
        *,
        children: Children,
        supervisor: Supervisor,
        roles: Iterable[tuple[str, Role]],
        asked_s: float,
        describe: Callable[[Member], ProcessSpec],
        tell: Callable[[str], None],
    ) -> None:
        """Take the workers over and listen for orders.

        Args:
            settings: where to listen.
            bus: how NATS is reached.
            children: the processes, workers among them.
            supervisor: replaces workers from now on.
            roles: names and roles of the workers that serve, in the order of their seats.
            asked_s: when these were asked for, by the loop's clock.
            describe: says how a worker is started.
            tell: called with a line about each change.

        Raises:
            ConfigurationInvalid: the port is taken.
            BusUnavailable: NATS does not answer.
        """
        loop, roster = asyncio.get_running_loop(), Roster(secrets.randbits(_VERSION_BITS))
        self._bus = await nats_bus.connect(bus, name="launcher")
        self._crew = Crew(
            children,
            supervisor,
            self._bus,
            roster=roster,
            describe=describe,
            drain_timeout_s=settings.drain_timeout_s,
            tell=tell,
        )
        by_name = {child.name: child for child in children.all()}
        for name, role in roles:
            self._crew.adopt(roster.hire(role, asked_s), by_name[name])
        self._port = LauncherPort(Launcher(roster, self._crew, now_s=loop.time))
        self.url = f"http://{settings.host}:{self._port.serve(settings.host, settings.port)}"

    async def close(self) -> None:
        """Take no orders any more; idempotent."""
        if self._port is not None:
            await asyncio.to_thread(self._port.close)  # an order that is under way needs this loop
        if self._crew is not None:
            await self._crew.close()
        if self._bus is not None:
            await self._bus.close()
