"""Who works for a cluster on this machine, and who is to: pure.

Comes in: orders, news of processes, how busy each worker is. Goes out: workers to start, to turn and to let
go. Invariant: an order is carried out as a whole or refused; who goes is one that has not started yet, or
the least busy; a name and its log are never given to two workers.
Not here: processes (`services.cluster.launcher`).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from services.domain.pools import Launched, LaunchedPool, LaunchedWorker, LaunchOrder
from services.domain.worker import Phase

Role = tuple[Phase, ...]
STARTS_KEPT = 4
"""Starts that are remembered: the slowest of the last few is what the next one may take."""


class Standing(StrEnum):
    """Where a worker stands between order and exit."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class OrderRefused(Exception):
    """An order cannot be carried out; says why."""


class OrderOutdated(OrderRefused):
    """An order was made for a state that has changed since."""


@dataclass(slots=True, kw_only=True)
class Member:
    """One worker."""

    name: str
    seat: int
    """Its place among the engines of this machine, from 0: which cores are its own."""
    role: Role
    standing: Standing
    since_s: float

    @property
    def pool(self) -> Phase:
        """The role that it counts to."""
        return pool_of(self.role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What follows from an order."""

    hired: tuple[Member, ...] = ()
    turned: tuple[Member, ...] = ()
    dismissed: tuple[Member, ...] = ()


class Roster:
    """All workers, and the targets that they follow from."""

    def __init__(self, first_version: int) -> None:
        """Begin with nobody.

        Args:
            first_version: of the targets; another one in each life of the launcher, so that no order that was
                made in a former life fits.
        """
        self._members: dict[str, Member] = {}
        self._named_count = 0
        self._version = first_version
        self._held: set[Phase] = set()
        self._starts_s: deque[float] = deque(maxlen=STARTS_KEPT)

    def get(self, name: str) -> Member | None:
        """One worker, or None."""
        return self._members.get(name)

    def members(self) -> tuple[Member, ...]:
        """All workers, in the order in which they were asked for."""
        return tuple(self._members.values())

    def hire(self, role: Role, now_s: float) -> Member:
        """Add a worker that is about to start."""
        taken = {member.seat for member in self._members.values()}
        member = Member(
            name=worker_name(self._named_count),
            seat=next(seat for seat in range(len(taken) + 1) if seat not in taken),
            role=role,
            standing=Standing.STARTING,
            since_s=now_s,
        )
        self._named_count += 1
        self._members[member.name] = member
        return member

    def stands(self, name: str, standing: Standing, now_s: float) -> None:
        """Take news of a process; those of workers that drain or are gone change nothing."""
        member = self._members.get(name)
        if member is not None and standing is not member.standing is not Standing.DRAINING:
            if standing is Standing.READY:
                self._starts_s.append(now_s - member.since_s)
            member.standing, member.since_s = standing, now_s

    def gone(self, name: str) -> None:
        """Take it that a worker ended for good; when nobody had asked for that, the targets change."""
        member = self._members.pop(name, None)
        if member is not None and member.standing is not Standing.DRAINING:
            self._version += 1

    def report(self, now_s: float) -> Launched:
        """Say how things stand."""
        return Launched(
            version=self._version,
            pools=tuple(self._pool(phase, now_s) for phase in Phase),
            workers=tuple(
                LaunchedWorker(
                    name=member.name,
                    phases=member.role,
                    standing=member.standing.value,
                    for_s=now_s - member.since_s,
                )
                for member in self._members.values()
            ),
            start_s=max(self._starts_s, default=None),
        )

    def obey(self, order: LaunchOrder, busy: Mapping[str, int], now_s: float) -> Changes:
        """Change the targets.

        Args:
            order: what is wanted.
            busy: sequences that each worker has; one that is missing has none.
            now_s: the present, as in the calls before.

        Raises:
            OrderOutdated: it was made for another state.
            OrderRefused: it asks for what cannot be.
        """
        if order.version not in (None, self._version):
            raise OrderOutdated("the pools were changed since")
        turned = self._check(order, busy)
        for member, role in turned:
            member.role = role
        hired: list[Member] = []
        dismissed: list[Member] = []
        for phase, size in order.sizes.items():
            pool = self._staying(phase, busy)
            dismissed += pool[: max(0, len(pool) - size)]
            hired += [self.hire((phase,), now_s) for _ in range(size - len(pool))]
        for member in dismissed:
            member.standing, member.since_s = Standing.DRAINING, now_s
        before = frozenset(self._held)
        self._held |= {phase for phase, is_held in order.holds.items() if is_held}
        self._held -= {phase for phase, is_held in order.holds.items() if not is_held}
        if turned or hired or dismissed or before != self._held:
            self._version += 1
        return Changes(
            hired=tuple(hired), turned=tuple(member for member, _ in turned), dismissed=tuple(dismissed)
        )

    def _check(self, order: LaunchOrder, busy: Mapping[str, int]) -> list[tuple[Member, Role]]:
        """Find who is turned to what; refuse what cannot be before anything is changed."""
        turned: dict[str, tuple[Member, Role]] = {}
        for phase, count in order.turns.items():
            ready = [m for m in self._staying(phase, busy) if m.standing is Standing.READY]
            if not 0 <= count <= len(ready):
                raise OrderRefused(f"{count} {phase.value} workers cannot be turned: {len(ready)} are ready")
            for member in ready[:count]:
                turned[member.name] = (member, (phase.other,))
        for name, role in order.roles.items():
            named = self._members.get(name)
            if named is None or named.standing is Standing.DRAINING:
                raise OrderRefused(f"there is no worker {name}")
            if not role:
                raise OrderRefused(f"{name} must keep a phase")
            turned[name] = (named, tuple(sorted(set(role))))
        for phase, size in order.sizes.items():
            if size < 0:
                raise OrderRefused(f"{phase.value} cannot have {size} workers")
        return [(member, role) for member, role in turned.values() if member.role != role]

    def _staying(self, phase: Phase, busy: Mapping[str, int]) -> list[Member]:
        """Workers of a role that are to stay, the first to go first: those on their way, then the idlest."""
        return sorted(
            (m for m in self._members.values() if m.pool is phase and m.standing is not Standing.DRAINING),
            key=lambda m: (
                m.standing is Standing.READY,
                busy.get(m.name, 0) if m.standing is Standing.READY else -m.since_s,
                m.seat,
            ),
        )

    def _pool(self, phase: Phase, now_s: float) -> LaunchedPool:
        own = [member for member in self._members.values() if member.pool is phase]
        return LaunchedPool(
            phase=phase,
            ready_count=sum(m.standing is Standing.READY for m in own),
            starting_s=tuple(now_s - m.since_s for m in own if m.standing is Standing.STARTING),
            draining_count=sum(m.standing is Standing.DRAINING for m in own),
            is_held=phase in self._held,
        )


def worker_name(index: int) -> str:
    """Name a worker that may be turned: not by its role."""
    return f"worker-{index}"


def pool_of(role: Role) -> Phase:
    """The pool that a role counts to: a soft-roled worker decodes, and prefills beside that."""
    return Phase.DECODE if Phase.DECODE in role else Phase.PREFILL
