"""How much of the cluster's own tail is used up: long gaps among all gaps written lately.

Comes in: outputs that ended, stalls that begin. Goes out: how dear a long gap is. A request's own account
(`services.domain.spoiling`) says nothing of those that are spoilt already; this one counts every gap, so that
the 99th percentile of all gaps together stays short. Invariant: never below 0. Not here: prices.
"""

from math import exp

from services.domain.spoiling import TAIL_FRAC

MEMORY_GAPS = 200_000.0
"""Gaps after which one counts for 1/e: as many as some hundred outputs have."""
GAPS_LEAST = 20_000.0
"""Gaps taken to be written before any output has ended."""
SCARCITY_POWER = 4
"""Long gaps are all but free while few are long, and dear before one in a hundred is."""


class TailAccount:
    """Folds gaps into a share."""

    def __init__(self) -> None:
        """Know of no gap."""
        self._gaps = 0.0
        self._long = 0.0

    def write(self, gaps_count: int) -> None:
        """Take the gaps of an output that ended."""
        fade = exp(-gaps_count / MEMORY_GAPS)
        self._gaps = self._gaps * fade + gaps_count
        self._long *= fade

    def stall(self, gaps_count: int) -> None:
        """Take gaps that a prompt is about to make long."""
        self._long += gaps_count

    @property
    def scarcity(self) -> float:
        """Say how dear a long gap is: 1 when one in a hundred is long, more beyond."""
        share = self._long / max(self._gaps, GAPS_LEAST)
        return (share / TAIL_FRAC) ** SCARCITY_POWER
