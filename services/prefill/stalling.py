"""What a task costs those who decode on the worker that looks at it.

Comes in: what they have behind them, once per look at the queue; tasks. Goes out: per task the seconds that
it should be left to others. A prompt that computes where others decode stalls them, so the worker bids by
waiting: it takes the task once that has waited for as many seconds of TTFT as the requests are worth that
the stall is expected to spoil (`services.domain.spoiling`). Whoever can do it for less has taken it by then;
nobody has to be asked. Invariant: a function of values; a task is left until its first token would be late,
and longer only while somebody who decodes nothing may take it.
Not here: the order of tasks (`services.prefill.ordering`).
"""

import math
from collections.abc import Sequence

from services.domain.performance import PrefillChunk
from services.domain.slo import Slo
from services.domain.spoiling import SPOILT_FRAC, Decoding, spoilt_count, step_gain_s
from services.domain.task import QueuedTask
from services.domain.together import Together

GRID = 1.1
"""Stalls are priced as the next longer one of a grid of this ratio, so that many tasks share few prices."""


class Stalls:
    """Prices on one worker at one moment."""

    def __init__(
        self,
        decoding: Sequence[Decoding],
        *,
        survival: Sequence[float],
        decode_step_s: float,
        has_free_peer: bool,
        begins: Together | None = None,
    ) -> None:
        """Price nothing yet.

        Args:
            decoding: those who decode here.
            survival: of lengths of outputs, as `LengthRecord` has it.
            decode_step_s: a step of theirs without a prompt.
            has_free_peer: whether another worker that may prefill decodes nothing.
            begins: what begins with the engine's next step anyway; None: nothing does.
        """
        self._decoding = decoding
        self._survival = survival
        self._decode_step_s = decode_step_s
        self._has_free_peer = has_free_peer
        self._begins = begins
        self._prices_s: dict[tuple[Slo, int, int], float] = {}

    def patience_s(
        self, queued: QueuedTask, chunk: PrefillChunk, *, prefill_s: float, steps_count: int
    ) -> float:
        """Say for how long a task is left to others because of who decodes here, in s from its arrival.

        Args:
            queued: the task.
            chunk: all that it computes here.
            prefill_s: what that takes alone.
            steps_count: engine steps of it.
        """
        slo = queued.record.slo
        if not self._decoding or slo is None:
            return 0.0
        price_s = self._price_s(slo, prefill_s, steps_count)
        if price_s:
            price_s = min(price_s, self._joining_s(slo, chunk))
        if self._has_free_peer:
            return price_s
        return min(price_s, max(0.0, queued.record.ttft_target_s - prefill_s))

    def _joining_s(self, slo: Slo, chunk: PrefillChunk) -> float:
        """Price what a prompt adds to steps that others take anyway; these wait for longer, too.

        Infinite where it does not fit.
        """
        begins, decode_count = self._begins, len(self._decoding)
        if begins is None or not begins.prompts_count:
            return math.inf
        if not begins.fits(chunk.new_tokens, decode_count=decode_count):
            return math.inf
        whole = begins.with_prompt(chunk)
        paid_s = self._price_s(slo, begins.prefill_s, begins.steps_count)
        whole_s = self._price_s(slo, whole.prefill_s, begins.steps_count)
        return whole_s - paid_s + begins.prompts_count * (whole.prefill_s - begins.prefill_s)

    def _price_s(self, slo: Slo, stall_s: float, steps_count: int) -> float:
        """Price so many steps that take so long together."""
        notch = math.ceil(math.log(max(stall_s, 1e-6)) / math.log(GRID))
        key = (slo, steps_count, notch)
        if key not in self._prices_s:
            self._prices_s[key] = self._spoilt_s(slo, math.exp(notch * math.log(GRID)), steps_count)
        return self._prices_s[key]

    def _spoilt_s(self, slo: Slo, stall_s: float, steps_count: int) -> float:
        spoilt = spoilt_count(
            [one.standing(slo.tpot_s) for one in self._decoding],
            stall_s=stall_s,
            stalls_count=steps_count,
            gain_s=step_gain_s(self._decode_step_s, slo.tpot_s),
            survival=self._survival,
            most=math.inf,
        )
        return SPOILT_FRAC * slo.ttft_s * spoilt


NOBODY_STALLS = Stalls((), survival=(1.0,), decode_step_s=0.0, has_free_peer=False)
"""On a worker that decodes nothing."""
