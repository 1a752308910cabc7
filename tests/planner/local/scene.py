"""A launcher on its real port, with workers that are there as soon as they are asked for, and its target."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from planner.targets.local import Local
from planner.targets.local_settings import LocalSettings
from services.cluster.launcher import Launcher
from services.cluster.launcher_port import LauncherPort
from services.cluster.roster import Member, Roster, Standing
from services.domain.worker import Phase

FIRST_VERSION = 1000


@dataclass
class Gang:
    """Stands in for processes: notes what it is told."""

    told: list[str] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)

    def hire(self, member: Member) -> None:
        """Note a start."""
        self.told.append(f"hire {member.name} for {member.pool.value}")

    def turn(self, member: Member) -> None:
        """Note a turn."""
        self.told.append(f"turn {member.name} to {member.pool.value}")

    def dismiss(self, member: Member) -> None:
        """Note an end."""
        self.told.append(f"dismiss {member.name}")

    def busy(self) -> dict[str, int]:
        """Sequences of each."""
        return self.sequences


@dataclass(kw_only=True)
class Site:
    """A launcher with all around it."""

    roster: Roster
    gang: Gang
    launcher: Launcher
    url: str


def crowd(prefill: int, decode: int, now_s: float = 0.0) -> Roster:
    """A roster of workers that serve, prefill workers first."""
    roster = Roster(FIRST_VERSION)
    for role in [(Phase.PREFILL,)] * prefill + [(Phase.DECODE,)] * decode:
        roster.stands(roster.hire(role, now_s).name, Standing.READY, now_s)
    return roster


@asynccontextmanager
async def site(prefill: int = 2, decode: int = 3) -> AsyncIterator[Site]:
    """Serve a launcher on a free port."""
    loop = asyncio.get_running_loop()
    roster, gang = crowd(prefill, decode, loop.time()), Gang()
    launcher = Launcher(roster, gang, now_s=loop.time)
    port = LauncherPort(launcher)
    number = port.serve("127.0.0.1", 0)
    try:
        yield Site(roster=roster, gang=gang, launcher=launcher, url=f"http://127.0.0.1:{number}")
    finally:
        await asyncio.to_thread(port.close)


def target(there: Site) -> Local:
    """A target that orders there."""
    return Local(LocalSettings(url=there.url))
