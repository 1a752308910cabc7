"""What this router placed and no reading shows yet, so that it does not place everything at one spot.

Comes in: own placements, and readings (a worker's status, the queue) that make older ones visible.
Goes out: sums of the rest per place. Invariant: never holds more than `placements_max`; a sum is exactly
the total of the entries still held; one id is held at most once.
Not here: what the sums are worth in seconds (`services.router.fleet.prices`).
"""

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

P = TypeVar("P", bound=Hashable)


class Burden(NamedTuple):
    """Load that one placement adds, or several together. Made with every decision, so made cheaply."""

    waiting_count: int = 0
    prefill_tokens: int = 0
    running_count: int = 0
    context_tokens: int = 0
    blocks: int = 0

    def plus(self, other: "Burden", sign: int = 1) -> "Burden":
        """Add another burden, or take it off with sign -1."""
        return Burden(
            self.waiting_count + sign * other.waiting_count,
            self.prefill_tokens + sign * other.prefill_tokens,
            self.running_count + sign * other.running_count,
            self.context_tokens + sign * other.context_tokens,
            self.blocks + sign * other.blocks,
        )


NOTHING = Burden()


class Ledger(Generic[P]):
    """Entries by id, each at one place (a worker, or a class of work in the queue)."""

    def __init__(self, placements_max: int) -> None:
        self._placements_max = placements_max
        self._entries: dict[str, tuple[P, float, Burden]] = {}
        self._ids: dict[P, dict[str, None]] = {}
        self._sums: dict[P, Burden] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def at(self, place: P) -> Burden:
        """Sum of what is held for a place."""
        return self._sums.get(place, NOTHING)

    def places(self) -> tuple[P, ...]:
        """Places for which something is held."""
        return tuple(self._sums)

    def add(self, entry_id: str, place: P, burden: Burden, now_s: float) -> tuple[P, ...]:
        """Remember a placement; an older one of the same id is replaced.

        Returns:
            Other places whose sum changed.
        """
        touched = [self.end(entry_id)]
        if len(self._entries) >= self._placements_max:
            touched.append(self.end(next(iter(self._entries))))
        self._entries[entry_id] = (place, now_s, burden)
        self._ids.setdefault(place, {})[entry_id] = None
        self._sums[place] = self.at(place).plus(burden)
        return tuple(p for p in touched if p is not None and p != place)

    def end(self, entry_id: str) -> P | None:
        """Forget a placement because it ended; returns its place, or None when it was not held."""
        held = self._entries.pop(entry_id, None)
        if held is None:
            return None
        place, _, burden = held
        ids = self._ids[place]
        del ids[entry_id]
        if ids:
            self._sums[place] = self._sums[place].plus(burden, -1)
        else:
            del self._ids[place], self._sums[place]
        return place

    def settle(self, place: P, before_s: float) -> None:
        """Forget what was placed at or before a moment: a reading of that place shows it now."""
        for entry_id in tuple(self._ids.get(place, ())):
            if self._entries[entry_id][1] > before_s:
                break
            self.end(entry_id)

    def drop(self, place: P) -> None:
        """Forget all of a place."""
        for entry_id in tuple(self._ids.get(place, ())):
            self.end(entry_id)
