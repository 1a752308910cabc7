"""What keeps a plan from following every breath of the load.

Comes in: needs over time, measured attainment. Goes out: what to keep, and how many requests may be late.
Invariant: what is kept is never less than what is needed now. Not here: the needs themselves (`sizing`), who
is started, turned or stopped (`arranging`).

*Keeping.* A worker that is not needed costs its price by the second; one that is given back and missed costs
a start. Keeping it for exactly as long as a start takes, and not longer, costs at most twice what foresight
would (rent or buy: Karlin, Manasse, Rudolph and Sleator, 1988), whatever the load does. The k-th worker is
needed whenever at least k are, so the number to keep is the largest need within that time.
Where the error budget is overdrawn, a start costs late requests that are not there to spend: the time grows
by as much as the budget is overdrawn.

*Keeping roles.* A turn costs what the worker does not do meanwhile, and whether it helped is seen only when
requests that began after it have ended. So none is turned back before its turn has had time to show, and then
only if that would have been better on the average of all that time, by more than the plan allows to be late:
what one look suggests is chance. A turn that is taken back soon was made by chance, too, so the next one is
kept for twice as long: turns an hour grow with the logarithm of the hour, whatever the noise.

*Error budget.* The targets allow a share of late requests over the long run. Whole workers round up, so most
of the time fewer are late; and what cannot be foreseen makes more late at times. The share planned for is
corrected by the integral of what was measured, within a bound. It is aimed a little and one standard error
below what the targets allow: of all fleets that aim at a mean, half miss it.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from planner.observation import Attainment
from planner.stock import PoolKey, other_role
from services.domain.worker import Phase

CAUTION = 1.0
"""Logarithm of the factor by which the budget counts as overdrawn at first: whoever knows nothing yet about a
load learns it at the expense of requests."""

AIM_FRAC = 0.95
"""Share of the late requests allowed that is aimed at: workers are whole, so no aim is hit exactly."""
AIM_MIN_FRAC = 0.5
"""Least share of them that is aimed at, however few requests are counted."""


class Keeping:
    """The largest of the last values."""

    def __init__(self) -> None:
        """Begin without a value."""
        self._falling: deque[tuple[float, int]] = deque()

    def fold(self, at_s: float, value: int, *, keep_s: float, keep_max_s: float) -> int:
        """Take a value; returns the largest of the last `keep_s`.

        Args:
            at_s: moment, not before the last one.
            value: of this moment.
            keep_s: for how long a value counts now.
            keep_max_s: no value ever counts for longer.
        """
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((at_s, value))
        while self._falling[0][0] < at_s - keep_max_s:
            self._falling.popleft()
        return next(kept for moment, kept in self._falling if moment >= at_s - keep_s)


@dataclass(slots=True, kw_only=True)
class _Turned:
    """The last turn of workers of one kind.

    Attributes:
        source: role that they left.
        begun_s: when the first of them left it.
        at_s: when the last of them did.
        hold_s: for how long none is turned back.
        gains: late requests that turning one back would have saved, as a share, with the moment of the look.
    """

    source: Phase
    begun_s: float
    at_s: float
    hold_s: float
    gains: deque[tuple[float, float]] = field(default_factory=deque)


class RoleKeeping:
    """Which workers may not be turned back yet."""

    def __init__(self, hold_max_s: float) -> None:
        """Begin without any turn.

        Args:
            hold_max_s: no turn is kept for longer on account of those before it.
        """
        self._hold_max_s = hold_max_s
        self._turned: dict[str, _Turned] = {}

    def ways_back(self) -> tuple[PoolKey, ...]:
        """Say from which pools workers would be turned back."""
        return tuple((other_role(turned.source), kind) for kind, turned in self._turned.items())

    def may_turn_back(self, kind: str, at_s: float, gain: float, *, least: float) -> bool:
        """Take what turning one back would save at this look; whether it may be done.

        Args:
            kind: of the workers.
            at_s: moment of the look.
            gain: share of requests that would be late no more; below 0 where more would be.
            least: a smaller saving is none.
        """
        turned = self._turned[kind]
        turned.gains.append((at_s, gain))
        while turned.gains[0][0] < at_s - turned.hold_s:
            turned.gains.popleft()
        if at_s - turned.at_s < turned.hold_s:
            return False
        return sum(saved for _moment, saved in turned.gains) > least * len(turned.gains)

    def note(self, kind: str, source: Phase, at_s: float, *, show_s: float) -> None:
        """Take note of a turn.

        Args:
            kind: of the workers.
            source: role that they leave.
            at_s: moment.
            show_s: time until it can be seen whether that helped.
        """
        before = self._turned.get(kind)
        if before is not None and before.source is source:
            before.at_s, before.hold_s = at_s, max(before.hold_s, show_s)
            return
        hold_s = show_s
        if before is not None and at_s - before.begun_s < 2.0 * before.hold_s:
            hold_s = max(show_s, min(self._hold_max_s, 2.0 * before.hold_s))
        self._turned[kind] = _Turned(source=source, begun_s=at_s, at_s=at_s, hold_s=hold_s)


class ErrorBudget:
    """How many requests may be late, corrected by how many were."""

    def __init__(self, *, late_frac: float, memory_s: float, factor_max: float) -> None:
        """Begin as the targets say.

        Args:
            late_frac: share of late requests that the targets allow.
            memory_s: time without a late request after which e times as many are planned for.
            factor_max: bound of the correction in both directions, >= 1.
        """
        self._late_frac = late_frac
        self._memory_s = memory_s
        self._bound = math.log(factor_max)
        self._saved = max(-self._bound, -CAUTION)
        self._usual_count = 0.0
        self._at_s: float | None = None

    def fold(self, at_s: float, attainment: Attainment, requests_per_s: float) -> None:
        """Take what was measured; requests count alike, so busy times count more.

        Args:
            at_s: moment.
            attainment: of requests that ended.
            requests_per_s: arrivals.
        """
        if attainment.request_count <= 0:
            return
        if self._at_s is not None and at_s > self._at_s:
            dt = at_s - self._at_s
            late = min(1.0, (1.0 - attainment.ttft_frac) + (1.0 - attainment.tpot_frac))
            weight = attainment.request_count / max(1e-9, self._usual_count)
            saved = self._saved + (1.0 - late / self._aim_frac(requests_per_s)) * weight * dt / self._memory_s
            self._saved = min(self._bound, max(-self._bound, saved))
            self._usual_count += (1.0 - math.exp(-dt / (24.0 * self._memory_s))) * (
                attainment.request_count - self._usual_count
            )
        else:
            self._usual_count = float(attainment.request_count)
        self._at_s = at_s

    def _aim_frac(self, requests_per_s: float) -> float:
        """Share aimed at: below what is allowed, by a little and one standard error of what is counted."""
        counted = max(1.0, requests_per_s * self._memory_s)
        chance = math.sqrt(self._late_frac / counted)
        return max(AIM_MIN_FRAC * self._late_frac, AIM_FRAC * self._late_frac - chance)

    @property
    def overdrawn(self) -> float:
        """How many times rarer than the targets allow requests may be late now; 1 while the budget holds."""
        return math.exp(max(0.0, -self._saved))

    @property
    def allowed_late_frac(self) -> float:
        """Share of requests that may be late in a plan made now."""
        return min(0.5, self._late_frac * math.exp(self._saved))
