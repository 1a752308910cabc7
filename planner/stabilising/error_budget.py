"""How many requests may be late in a plan made now.

Comes in: attainment as measured. Goes out: a share of late requests. Invariant: within a bound around what
the targets allow. Not here: how far the model is believed (`believing`).

The targets allow a share of late requests over the long run. Whole workers round up, so most of the time
fewer are late; and what cannot be foreseen makes more late at times. The share planned for is corrected by
the integral of what was measured, within a bound. It is aimed a little and one standard error below what
the targets allow: of all fleets that aim at a mean, half miss it. The more is to be spent at a moment, the
longer it was saved for: a full fleet is near an edge, and some quiet minutes say nothing of the next.
"""

import math

from planner.observation import Attainment

CAUTION = 1.0
"""Logarithm of the factor by which the budget counts as overdrawn at first: whoever knows nothing yet about a
load learns it at the expense of requests."""

SOON_TIMES = 3.5
"""Most that a plan lets be late at any moment, over what the targets allow, with what was saved soon."""
LONG_TIMES = 24.0
"""To save more, and to learn how many requests are usual, takes so many times the memory."""
AIM_FRAC = 0.95
"""Share of the late requests allowed that is aimed at: workers are whole, so no aim is hit exactly."""
AIM_MIN_FRAC = 0.5
"""Least share of them that is aimed at, however few requests are counted."""


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
            saved = (1.0 - late / self._aim_frac(requests_per_s)) * weight * dt / self._memory_s
            soon = min(saved, max(0.0, math.log(SOON_TIMES) - self._saved))
            self._saved += soon + (saved - soon) / LONG_TIMES
            self._saved = min(self._bound, max(-self._bound, self._saved))
            self._usual_count += (1.0 - math.exp(-dt / (LONG_TIMES * self._memory_s))) * (
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

    @property
    def allowed_max_frac(self) -> float:
        """Bound of that share, however much the model is taken to exaggerate."""
        return self._late_frac * max(SOON_TIMES, math.exp(self._saved))
