"""How long the gap behind a first token may be.

Comes in: the expected length of an output, a step, the target. Goes out: seconds. The first token is known
before a decode worker can write the second, so showing it at once shortens TTFT and lengthens the first
gap. Among a hundred gaps one long one is not seen at the 99th percentile; where outputs are shorter, their
first gaps would be that percentile. Invariant: never more than the target. Not here: who holds the token.
"""

from services.domain.spoiling import TAIL_FRAC

PLANNED_FRAC = 0.9
"""Share of the target that the gap behind a first token is planned for; the rest is what the prediction of
the second one may be wrong by."""


def first_gap_max_s(*, output_tokens: float, step_s: float, tpot_target_s: float) -> float:
    """Choose it: nearly the target where at most one gap in a hundred is a first one, a usual step elsewhere.

    Args:
        output_tokens: that an output is expected to have.
        step_s: predicted step of the decode worker with this request in it.
        tpot_target_s: of a request.
    """
    is_seen = (output_tokens - 1) * TAIL_FRAC < 1
    most_s = PLANNED_FRAC * tpot_target_s
    return min(step_s, most_s) if is_seen else most_s
