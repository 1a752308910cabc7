"""Static peak: as many workers as the busiest minute needs, all the time.

Comes in: the whole load's work, which this one alone may see. Goes out: the same order for ever.
"""

import math

import numpy as np

from planner.decision import Decision
from planner.observation import Observation
from planner.proof.baselines.pace import sized
from planner.proof.load import Floats
from planner.proof.work import Work
from services.domain.worker import Phase

PEAK_S = 60.0
"""The peak is the mean of the busiest so long."""


class StaticPeak:
    """A `Scaler` that never scales."""

    def __init__(self, work: Work, *, headroom: float) -> None:
        """Look at the whole load.

        Args:
            work: of it.
            headroom: so many times the peak's work at the best pace, > 0.
        """
        self._wanted = {
            Phase.PREFILL: math.ceil(headroom * _peak(work, work.prefill_gpus)),
            Phase.DECODE: math.ceil(headroom * _peak(work, work.decode_gpus)),
        }

    def decide(self, observation: Observation) -> Decision:
        """Keep it."""
        return sized(observation, self._wanted, look_s=3600.0, reason="as many as the peak needs")


def _peak(work: Work, gpus: Floats) -> float:
    around = max(1, round(PEAK_S / work.load.step_s))
    return float(np.convolve(gpus, np.ones(around) / around, mode="valid").max())
