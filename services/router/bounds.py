"""What a way must keep for a request to be served well, and what is wrong with one that does not.

Comes in: a query, settings, whether this is overload; ways with their predictions. Goes out: the good ways,
and the first thing wrong with each of the others. Invariant: a function of its inputs; what a worker could
do in time on an idle cluster is never barred for its length alone, except by its own deadline.
Not here: prices (`services.router.ways`), the choice (`services.router.placement`), the words of a refusal
(`services.router.refusal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.placement import PlacementQuery
from services.domain.request import is_batch
from services.router.refusal import Bar
from services.router.settings import RouterSettings
from services.router.ways import Way

WAIT_FLOOR_FRAC = 0.25
"""Wait that is always allowed, in TTFT targets: a prompt whose own prefill takes longer than the target
would otherwise never be let in under overload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of one query.

    Attributes:
        ttft_target_s: of the router.
        burst_wait_s: longest wait while this is a burst; None under overload, where the target counts.
        step_max_s: longest time per token of a decode worker.
        waited_s: since the gateway accepted the request.
        deadline_s: time left; None without.
        tail_tokens: expected after the first one.
        batch: whether it is batch work, which under overload gets only what interactive work leaves.
    """

    ttft_target_s: float
    burst_wait_s: float | None
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
        return max(self.ttft_target_s - solo_s, floor_s) - self.waited_s

    def predicted_s(self, way: Way) -> float:
        """Seconds until the last token, if the output is as long as expected."""
        return way.ttft_s + self.tail_tokens * way.tpot_s

    def judge(self, priced: Sequence[Way]) -> tuple[list[Way], list[tuple[Way, Bar]]]:
        """Split ways into those that serve the request well, and the others with what is wrong."""
        if self.burst_wait_s is None:
            ways = [
                way
                for way in priced
                if not way.room_s and way.wait_s <= self.wait_max_s(way.ttft_s - way.wait_s)
            ]
        else:
            longest_s = self.burst_wait_s - self.waited_s
            ways = [way for way in priced if way.wait_s <= longest_s and not way.room_s]
        if self.deadline_s is not None:
            tail, limit_s = self.tail_tokens, self.deadline_s
            ways = [way for way in ways if way.ttft_s + tail * way.tpot_s <= limit_s]
        if len(ways) == len(priced):
            return ways, []
        good = set(ways)
        return ways, [(way, self._bar(way)) for way in priced if way not in good]

    def _bar(self, way: Way) -> Bar:
        if way.wait_s > self.wait_max_s(way.ttft_s - way.wait_s):
            return Bar.LATE
        if self.deadline_s is not None and self.predicted_s(way) > self.deadline_s:
            return Bar.DEADLINE
        return Bar.FULL

    def objection(self, way: Way, bar: Bar) -> str:
        """Say what is wrong with a way."""
        match bar:
            case Bar.LATE:
                longest_s = self.wait_max_s(way.ttft_s - way.wait_s)
                return f"its wait of {way.wait_s:.2f} s is longer than {max(0.0, longest_s):.2f} s"
            case Bar.FULL:
                return f"decode has no room for it before {way.room_s:.2f} s"
            case Bar.DEADLINE:
                return f"its end in {self.predicted_s(way):.2f} s is after the deadline"
