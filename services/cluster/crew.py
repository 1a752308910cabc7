"""The worker processes of a cluster whose pools change: started, turned, let go.

Comes in: members of the roster, the fleet's statuses. Goes out: processes, orders over the bus, and news
for the roster. Invariant: a worker's settings name the role that it is to have, so that a new life of it has
that role from its beginning; one that runs is ordered to its role until its status shows it; one that is let
go drains, and is killed only after `drain_timeout_s`.
Not here: who is chosen (`services.cluster.roster`), replacing what dies (`services.cluster.supervisor`).
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

from services.bus.fleet import Fleet
from services.bus.port import Bus
from services.cluster.plan import ProcessSpec, turned
from services.cluster.processes import Child, Children
from services.cluster.roster import Member, Roster, Standing
from services.cluster.supervisor import Question, Supervisor
from services.domain.ids import WorkerId
from services.domain.worker import RoleOrder
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)

ORDER_AGAIN_S = 0.5
"""Between two orders of a role that a worker's status does not show yet: two statuses."""
START_GRACE_S = 5.0
"""Longest wait for the end of a worker that never served: it has nothing to finish, and an engine that loads
hears no signal."""


class Crew:
    """All worker processes."""

    def __init__(
        self,
        children: Children,
        supervisor: Supervisor,
        bus: Bus,
        *,
        roster: Roster,
        describe: Callable[[Member], ProcessSpec],
        drain_timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """Begin to follow the fleet.

        Args:
            children: where processes are kept.
            supervisor: replaces what dies.
            bus: where workers announce themselves and are ordered.
            roster: told how each worker stands.
            describe: says how a worker is started.
            drain_timeout_s: longest wait for one that was let go.
            tell: called with a line about each change.
        """
        self._children = children
        self._supervisor = supervisor
        self._bus = bus
        self._roster = roster
        self._describe = describe
        self._drain_timeout_s = drain_timeout_s
        self._tell = tell
        self._tended: dict[str, _Tended] = {}
        self._fleet = Fleet(bus)
        self._turned = asyncio.Event()
        self._nursery = Nursery("crew")
        self._nursery.start(self._order(), "orders")

    async def close(self) -> None:
        """Stop following and ordering; processes are not touched. Idempotent."""
        await self._nursery.close()
        await self._fleet.close()

    def adopt(self, member: Member, child: Child) -> None:
        """Take a worker that serves already."""
        self._stands(member.name, Standing.READY)
        self._tend(member, child, is_running=True)

    def hire(self, member: Member) -> None:
        """Start a worker."""
        self._tell(f"{member.name} is started for {'+'.join(member.role)}")
        self._tend(member, self._children.add(self._describe(member)), is_running=False)

    def turn(self, member: Member) -> None:
        """Have a worker take the role that its member names now, in this life and the next."""
        self._tell(f"{member.name} is turned to {'+'.join(member.role)}")
        child = self._tended[member.name].child
        child.spec = turned(child.spec, member.role)
        self._turned.set()

    def dismiss(self, member: Member) -> None:
        """Let a worker go: it drains and ends."""
        self._tell(f"{member.name} is let go")
        tended = self._tended[member.name]
        self._supervisor.release(tended)
        patience_s = self._drain_timeout_s if tended.serves else START_GRACE_S
        self._nursery.start(_see_off(tended.child, patience_s), f"drain of {member.name}")

    def busy(self) -> Mapping[str, int]:
        """Count the sequences of each worker that announces itself."""
        loads = {name: status.load for name, status in self._fleet.statuses.items()}
        return {name: load.running_count + load.waiting_count for name, load in loads.items()}

    def _tend(self, member: Member, child: Child, *, is_running: bool) -> None:
        name = member.name
        tended = self._tended[name] = _Tended(
            child, lambda standing: self._stands(name, standing), serves=is_running
        )
        self._supervisor.add(tended, is_running=is_running, gone=lambda: self._gone(name))

    def _stands(self, name: str, standing: Standing) -> None:
        self._roster.stands(name, standing, asyncio.get_running_loop().time())

    def _gone(self, name: str) -> None:
        self._roster.gone(name)
        self._children.forget(self._tended.pop(name).child)

    async def _order(self) -> None:
        while True:
            for member in self._roster.members():
                status = self._fleet.statuses.get(WorkerId(member.name))
                if status is not None and member.standing is Standing.READY and status.phases != member.role:
                    order = RoleOrder(worker_id=status.worker_id, epoch=status.epoch, phases=member.role)
                    await self._bus.order_role(order)
            with suppress(TimeoutError):
                async with asyncio.timeout(ORDER_AGAIN_S):
                    await self._turned.wait()
            self._turned.clear()


async def _see_off(child: Child, patience_s: float) -> None:
    if not child.runs:
        return  # the supervisor starts it no more
    child.signal(signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await child.wait()
            return
    log.warning("%s did not end within %g s and is killed", child.name, patience_s)
    child.kill()


class _Tended:
    """A process whose starts are told. A `services.cluster.supervisor.Watched`."""

    def __init__(self, child: Child, stands: Callable[[Standing], None], *, serves: bool) -> None:
        self.child = child
        self.serves = serves
        """Whether this life of it took work: only then is there anything to finish."""
        self._stands = stands

    @property
    def name(self) -> str:
        return self.child.name

    async def start(self) -> None:
        self.serves = False
        self._stands(Standing.STARTING)
        await self.child.start()

    async def wait(self) -> int:
        return await self.child.wait()

    async def asks(self, question: Question, timeout_s: float) -> bool:
        answered = await self.child.asks(question, timeout_s)
        if answered and question is Question.READY:
            self.serves = True
            self._stands(Standing.READY)
        return answered

    def kill(self) -> None:
        self.child.kill()

    def tail(self) -> str:
        return self.child.tail()
