"""What the planner wants: how many workers of each role and kind, why, and when it looks again.

Comes in: nothing. Goes out: frozen values. Invariant: a decision names every pool of the observation that it
answers, and says in words why. Not here: how it is found (`sizing`, `stabilising`), who carries it out.
"""

from dataclasses import dataclass
from typing import Protocol

from planner.observation import Observation
from services.domain.worker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOrder:
    """How many workers one pool is to have.

    Attributes:
        phase: the role.
        kind: of its workers.
        worker_count: ready and starting ones together.
    """

    phase: Phase
    kind: str
    worker_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Workers that change their role at once, without a restart."""

    kind: str
    source: Phase
    worker_count: int
    """>= 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done.

    Attributes:
        orders: by pool, after the flips.
        flips: to be done first.
        reasons: sentences, the most important first.
        look_s: time from now to the next look.
        advice: sentences on what no number of workers mends; no part of the decision.
    """

    orders: tuple[PoolOrder, ...]
    flips: tuple[Flip, ...] = ()
    reasons: tuple[str, ...] = ()
    look_s: float
    advice: tuple[str, ...] = ()


class Scaler(Protocol):
    """Decides how many workers there should be."""

    def decide(self, observation: Observation) -> Decision:
        """Decide, given what is known now; observations come in the order of time."""
        ...
