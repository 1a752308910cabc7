"""The launcher: owns how many workers a cluster on this machine has, and in which roles.

Comes in: orders of people and of a planner. Goes out: how things stand. Invariant: targets live here and
nowhere else, so that whoever orders may come and go. Not here: who is chosen (`services.cluster.roster`), how
it is done (`services.cluster.crew`), HTTP (`services.cluster.launcher_port`).
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from services.cluster.roster import Member, Roster
from services.domain.pools import Launched, LaunchOrder


class Hands(Protocol):
    """Do to processes what the roster says."""

    def hire(self, member: Member) -> None:
        """Start a worker."""
        ...

    def turn(self, member: Member) -> None:
        """Have a worker take the role that its member names now."""
        ...

    def dismiss(self, member: Member) -> None:
        """Let a worker go: it drains and ends."""
        ...

    def busy(self) -> Mapping[str, int]:
        """Count the sequences of each worker that is known."""
        ...


class Launcher:
    """Takes orders."""

    def __init__(self, roster: Roster, hands: Hands, *, now_s: Callable[[], float]) -> None:
        """Tie both together.

        Args:
            roster: who is there, and who is to be.
            hands: carry it out.
            now_s: the clock of both.
        """
        self._roster = roster
        self._hands = hands
        self._now_s = now_s

    def report(self) -> Launched:
        """Say how things stand."""
        return self._roster.report(self._now_s())

    def obey(self, order: LaunchOrder) -> Launched:
        """Carry an order out: what it asks for has begun when this returns.

        Raises:
            OrderOutdated: it was made for another state.
            OrderRefused: it asks for what cannot be.
        """
        changes = self._roster.obey(order, self._hands.busy(), self._now_s())
        for member in changes.turned:
            self._hands.turn(member)
        for member in changes.hired:
            self._hands.hire(member)
        for member in changes.dismissed:
            self._hands.dismiss(member)
        return self.report()
