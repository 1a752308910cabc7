"""The role of a worker: the phases that it takes new work for.

Comes in: phases, from the launcher at first and from orders later. Goes out: the two phases, opened and
closed. Invariant: a phase that is closed refuses what is new and ends what it has by its own rules.
Not here: who orders, and how (`services.worker.worker`, `services.bus`).
"""

from collections.abc import Iterable

from services.decode.phase import DecodePhase
from services.domain.worker import Phase
from services.prefill.phase import PrefillPhase


class Role:
    """What one worker does now."""

    def __init__(self, phases: Iterable[Phase]) -> None:
        """Name the role that the launcher gives; nothing is opened or closed yet."""
        self.phases = _in_order(phases)

    def turn(self, phases: Iterable[Phase], prefill: PrefillPhase, decode: DecodePhase) -> None:
        """Take another role at once."""
        self.phases = _in_order(phases)
        for phase, work in ((Phase.PREFILL, prefill), (Phase.DECODE, decode)):
            if phase in self.phases:
                work.open()
            else:
                work.begin_drain()

    def is_another(self, phases: Iterable[Phase]) -> bool:
        """Whether it would be changed by an order for these phases."""
        return _in_order(phases) != self.phases


def _in_order(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    return tuple(sorted(set(phases)))
