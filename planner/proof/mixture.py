"""A fleet of several kinds of workers, as one.

Comes in: a fleet per kind, what a worker of it costs and is worth. Goes out: capacity and cost in workers of
the kind that the load's work is counted in. Invariant: a decision reaches each fleet's own pools only; a
mixture of one kind is that fleet. Not here: how a worker starts, turns and goes (`fleet`).
"""

from dataclasses import dataclass, replace

from planner.decision import Decision
from planner.observation import PoolState
from planner.proof.fleet import Capacity, Fleet
from services.domain.worker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """All workers of one kind.

    Attributes:
        fleet: they.
        price: of one, in prices of a worker of the reference.
        power_w: of one.
        prefill: workers of the reference that one stands for while it prefills.
        decode: the same while it decodes.
    """

    fleet: Fleet
    price: float = 1.0
    power_w: float = 0.0
    prefill: float = 1.0
    decode: float = 1.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """Parts that serve one load together."""

    parts: tuple[Part, ...]

    @property
    def paid(self) -> float:
        """Cost now, in workers of the reference."""
        return sum(part.price * part.fleet.paid_count for part in self.parts)

    @property
    def power_w(self) -> float:
        """Power of all that are paid for."""
        return sum(part.power_w * part.fleet.paid_count for part in self.parts)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Flips, workers started, workers removed and decisions that did either, so far."""
        fleets = self._fleets()
        return (
            sum(fleet.flips_count for fleet in fleets),
            sum(fleet.started_count for fleet in fleets),
            sum(fleet.removed_count for fleet in fleets),
            max(fleet.actions_count for fleet in fleets),
        )

    def capacity(self) -> Capacity:
        """Say who serves now."""
        served = [(part, part.fleet.capacity()) for part in self.parts]
        return Capacity(
            prefill=sum(part.prefill * now.prefill for part, now in served),
            decode=sum(part.decode * now.decode for part, now in served),
        )

    def pools(self, now_s: float) -> tuple[PoolState, ...]:
        """Tell a scaler of the pools."""
        return tuple(pool for fleet in self._fleets() for pool in fleet.pools(now_s))

    def advance(self, now_s: float) -> None:
        """Let workers become ready, gone, or of another role."""
        for fleet in self._fleets():
            fleet.advance(now_s)

    def obey(self, decision: Decision, now_s: float, finish_s: dict[Phase, float]) -> None:
        """Carry out a decision.

        Args:
            decision: what is wanted.
            now_s: present.
            finish_s: how long a worker of each role takes to finish what it has.
        """
        for fleet in self._fleets():
            own = replace(
                decision,
                orders=tuple(order for order in decision.orders if order.kind == fleet.kind),
                flips=tuple(flip for flip in decision.flips if flip.kind == fleet.kind),
            )
            fleet.obey(own, now_s, finish_s)

    def _fleets(self) -> list[Fleet]:
        return [part.fleet for part in self.parts]
