"""Loads of which the answer is known."""

from collections.abc import Sequence

import numpy as np

from planner.proof.load import Load, even_spread
from planner.proof.work import DEFAULT_ENGINE, Work
from services.domain.slo import Slo

CHAT = Slo(ttft_s=2.0, tpot_s=0.025)
QUICK = Slo(ttft_s=0.2, tpot_s=0.01)


def load_of(
    rates_per_s: Sequence[float], *, step_s: float = 10.0, prompt: float = 1155.0, output: float = 211.0
) -> Load:
    """Make a load of the same requests all the time, without chance."""
    ones = np.ones(len(rates_per_s))
    return Load(
        name="even",
        step_s=step_s,
        arrivals=np.array(rates_per_s) * step_s,
        prompt_tokens=ones * prompt,
        uncached_tokens=ones * prompt,
        output_tokens=ones * output,
        context_tokens=ones * (prompt + output),
        spread=even_spread(1.0),
    )


def work_of(rates_per_s: Sequence[float], slo: Slo = CHAT, *, step_s: float = 10.0) -> Work:
    """Tell what it costs."""
    return Work(load=load_of(rates_per_s, step_s=step_s), engine=DEFAULT_ENGINE, slo=slo)
