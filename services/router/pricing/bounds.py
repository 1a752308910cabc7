"""What a way must keep for a request to be served well, and what is wrong with one that does not.

Comes in: a query, settings, whether this is overload; ways with their predictions. Goes out: the good ways,
and the first thing wrong with each of the others. Invariant: a function of its inputs; what a worker could
do in time on an idle cluster is never barred for its length alone, except by its own deadline.
Not here: prices (`services.router.pricing.ways`), the choice (`services.router.placement`), the words of a
refusal (`services.router.pricing.refusal`).
"""

from math import inf
from typing import NamedTuple

import numpy as np

from services.domain.placement import PlacementQuery
from services.domain.request import is_batch
from services.domain.slo import Margins
from services.router.fleet.columns import Column, Mask
from services.router.pricing.refusal import Bar, Barred
from services.router.pricing.way import Ways
from services.router.settings import RouterSettings

WAIT_FLOOR_FRAC = 0.25
"""Wait that is always allowed, in TTFT targets: a prompt whose own prefill takes longer than the target
would otherwise never be let in under overload."""


class Bounds(NamedTuple):
    """The bounds of one query.

    Attributes:
        ttft_target_s: of the router.
        burst_wait_s: longest wait while this is a burst; None under overload, where the target counts.
        margins: of the targets under overload; None in a burst.
        step_max_s: longest time per token of a decode worker.
        waited_s: since the gateway accepted the request.
        deadline_s: time left; None without.
        tail_tokens: expected after the first one.
        batch: whether it is batch work, which under overload gets only what interactive work leaves.
    """

    ttft_target_s: float
    burst_wait_s: float | None
    margins: Margins | None
    step_max_s: float
    waited_s: float
    deadline_s: float | None
    tail_tokens: int
    batch: bool

    @classmethod
    def of(cls, query: PlacementQuery, settings: RouterSettings, *, overload: bool) -> "Bounds":
        """Take the bounds of a query."""
        return cls(
            ttft_target_s=settings.ttft_target_s,
            burst_wait_s=None if overload else settings.wait_max_s,
            margins=query.margins if overload else None,
            step_max_s=settings.step_max_s(query.priority, overload=overload),
            waited_s=query.waited_s,
            deadline_s=query.deadline_s,
            tail_tokens=(query.output_tokens_expected or 1) - 1,
            batch=is_batch(query.priority),
        )

    def wait_max_s(self, solo_s: float) -> float:
        """Longest wait from now on, s.

        Args:
            solo_s: time to the first token without any wait.
        """
        if self.burst_wait_s is not None:
            return self.burst_wait_s - self.waited_s
        floor_s = self.ttft_target_s * WAIT_FLOOR_FRAC
        if self.batch:
            return floor_s - self.waited_s
        return max(self.ttft_max_s - solo_s, floor_s) - self.waited_s

    @property
    def ttft_max_s(self) -> float:
        """Longest predicted TTFT, of interactive requests under overload."""
        return self.ttft_target_s * (1.0 if self.margins is None else self.margins.ttft_frac)

    def predicted_s(self, ttft_s: float, tpot_s: float) -> float:
        """Seconds until the last token, if the output is as long as expected.

        Args:
            ttft_s: until the first one.
            tpot_s: time per token after it.
        """
        return ttft_s + self.tail_tokens * tpot_s

    def good(self, ways: Ways) -> Mask | None:
        """Tell the ways that serve the request well; None when all do.

        Returns:
            Shape [places]; what is no way at all may be true or false.
        """
        if self.burst_wait_s is not None:
            good: Mask = ways.wait_s <= self.burst_wait_s - self.waited_s
        else:
            good = ways.wait_s <= self._waits_max_s(ways)
        if ways.room_s is not None:
            good &= ways.room_s == 0.0
        if self.deadline_s is not None:
            good &= ways.ttft_s + self.tail_tokens * ways.tpot_s <= self.deadline_s
        return None if np.count_nonzero(good) == len(good) else good

    def nearest(self, ways: Ways, barred: Mask) -> list[Barred]:
        """Take those barred ways that a refusal speaks of: the best by each number that it may name.

        Args:
            ways: all.
            barred: those that could be gone, but not well; shape [places].
        """
        over_s = ways.wait_s - self._waits_max_s(ways)
        late = barred & (over_s > 0.0)
        asked: list[tuple[Mask, Column]] = [(late, over_s)]
        if np.count_nonzero(late) < np.count_nonzero(barred):
            asked += self._of_those_in_time(ways, barred & ~late)
        places = [
            int(np.where(mask, number_s, inf).argmin()) for mask, number_s in asked if np.count_nonzero(mask)
        ]
        return [
            Barred(
                bar=self.bar(ways, place),
                wait_s=float(ways.wait_s[place]),
                wait_max_s=self._wait_max_at_s(ways, place),
                room_s=0.0 if ways.room_s is None else float(ways.room_s[place]),
                predicted_s=self._end_at_s(ways, place),
            )
            for place in places
        ]

    def _of_those_in_time(self, ways: Ways, barred: Mask) -> list[tuple[Mask, Column]]:
        asked: list[tuple[Mask, Column]] = []
        if self.deadline_s is not None:
            predicted_s = ways.ttft_s + self.tail_tokens * ways.tpot_s
            missed = barred & (predicted_s > self.deadline_s)
            idle_s = predicted_s - ways.wait_s
            asked += [(missed, number_s) for number_s in (predicted_s, idle_s, ways.wait_s)]
            barred = barred & ~missed
        if ways.room_s is not None:
            asked.append((barred, ways.room_s))
        return asked

    def bar(self, ways: Ways, place: int) -> Bar:
        """Name the first thing that is wrong with a way that is not good."""
        if ways.wait_s[place] > self._wait_max_at_s(ways, place):
            return Bar.LATE
        if self.deadline_s is not None and self._end_at_s(ways, place) > self.deadline_s:
            return Bar.DEADLINE
        return Bar.FULL

    def objection(self, ways: Ways, place: int) -> str:
        """Say what is wrong with a way that is not good."""
        match self.bar(ways, place):
            case Bar.LATE:
                longest_s = max(0.0, self._wait_max_at_s(ways, place))
                return f"its wait of {ways.wait_s[place]:.2f} s is longer than {longest_s:.2f} s"
            case Bar.FULL:
                room_s = 0.0 if ways.room_s is None else ways.room_s[place]
                return f"decode has no room for it before {room_s:.2f} s"
            case Bar.DEADLINE:
                return f"its end in {self._end_at_s(ways, place):.2f} s is after the deadline"

    def _wait_max_at_s(self, ways: Ways, place: int) -> float:
        return self.wait_max_s(float(ways.ttft_s[place]) - float(ways.wait_s[place]))

    def _end_at_s(self, ways: Ways, place: int) -> float:
        return self.predicted_s(float(ways.ttft_s[place]), float(ways.tpot_s[place]))

    def _waits_max_s(self, ways: Ways) -> Column | float:
        if self.burst_wait_s is not None or self.batch:
            return self.wait_max_s(0.0)
        floor_s = self.ttft_target_s * WAIT_FLOOR_FRAC
        solo_s = ways.ttft_s - ways.wait_s
        return np.maximum(self.ttft_max_s - solo_s, floor_s) - self.waited_s
