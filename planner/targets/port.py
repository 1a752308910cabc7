"""The port to a scale target.

Comes in: decisions. Goes out: pools as they are, and what was done. Invariant of every target: what is
removed drains first; a pool that a person changed since it was read is left alone; carrying out the same
orders twice has the effect of once. Not here: the targets.
"""

from dataclasses import dataclass
from typing import Protocol

from planner.decision import Decision
from planner.observation import PoolState


class TargetUnavailable(Exception):
    """The target did not answer, or refused; the next look tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a decision; sentences for the log."""

    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """What was not done, and why."""


class Target(Protocol):
    """Carries decisions out."""

    async def pools(self) -> tuple[PoolState, ...]:
        """Read all pools.

        Raises:
            TargetUnavailable: they cannot be read now.
        """
        ...

    async def carry_out(self, decision: Decision) -> Outcome:
        """Order what a decision says, for pools as last read.

        Raises:
            TargetUnavailable: it could not be carried out as a whole.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; idempotent."""
        ...
