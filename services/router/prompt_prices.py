"""What a prompt costs at each worker, by the performance model each announces.

Comes in: a prompt, leading tokens that exist, workers in columns. Goes out: seconds and steps in columns.
Invariant: each entry is the sum over the steps that `PerformanceModel.prefill_s` prices; no operation mixes
workers. Full steps grow evenly, because each new chunk attends to one chunk more: that gives a closed form.
Not here: waiting and choosing (`services.router.ways`).
"""

from math import inf
from typing import cast

import numpy as np

from services.router.lineup import Column, Mask, Number, Traits


class PromptPrices:
    """A prompt's prefill at each worker, in the steps that its budget cuts it into."""

    def __init__(self, traits: Traits, *, prompt_tokens: int, cached_tokens: Number, bends: bool) -> None:
        """Price the whole prefill.

        Args:
            traits: of the workers.
            prompt_tokens: whole prompt, >= 1.
            cached_tokens: leading tokens whose KV exists, below the whole.
            bends: whether a performance model has a square of its own.
        """
        self._traits, self._bends = traits, bends
        budget = traits.step_tokens_max
        cached = cached_tokens
        new = prompt_tokens - cached
        full = new // budget
        filled = full * budget
        rest = new - filled
        part = rest > 0.0
        self.step_count = cast(Number, full + part)
        steps_s: Number = self.step_count * traits.prefill_step_s
        if bends:
            steps_s = steps_s + (filled * budget + rest * rest) * traits.prefill_square_s
        self.new_tokens = new
        self.total_s: Number = steps_s + _chunk_s(traits, new, cached)
        self._cached, self._filled, self._rest, self._part = cached, filled, rest, part
        self._full: Number = full

    def stall_s(self, *, decode_step_s: Column, tpot_s: float, running: Mask) -> Column:
        """Time that one running request loses beyond its target while the prompt is computed.

        Steps that miss the target without the prompt lose only what the prompt adds.

        Args:
            decode_step_s: the decode part of each step, s.
            tpot_s: what a step may take, s.
            running: where there is a running request; elsewhere anything comes out.
        """
        slack_s = np.maximum(0.0, tpot_s - decode_step_s)
        whole_s: Column = self.total_s - slack_s * self.step_count
        first_s, last_s = self._first_s(), self._last_s()
        late = slack_s <= self._least_s(first_s, last_s)
        if np.count_nonzero(late) == len(late) or np.count_nonzero(late | ~running) == len(late):
            return whole_s
        return np.where(late, whole_s, self._some_s(slack_s, first_s, last_s))

    def _first_s(self) -> Number:
        t, budget = self._traits, self._traits.step_tokens_max
        return t.full_step_s + _chunk_s(t, budget, self._cached)

    def _least_s(self, first_s: Number, last_s: Number) -> Column | float:
        """The shortest of all steps."""
        if isinstance(self._full, np.ndarray):
            first_s = np.where(self._full > 0.0, first_s, inf)
            least_s: Column = np.minimum(first_s, np.where(self._part, last_s, inf))
            return least_s
        return min(float(first_s) if self._full else inf, float(last_s) if self._part else inf)

    def _last_s(self) -> Number:
        t, rest = self._traits, self._rest
        steps_s = t.prefill_step_s
        if self._bends:
            steps_s = steps_s + rest * rest * t.prefill_square_s
        return steps_s + _chunk_s(t, rest, self._cached + self._filled)

    def _some_s(self, slack_s: Column, first_s: Number, last_s: Number) -> Column:
        """Where some steps keep the target: only those count that miss it."""
        t, full, budget = self._traits, self._full, self._traits.step_tokens_max
        lost_s: Column = np.where(self._part, np.maximum(0.0, last_s - slack_s), 0.0)
        if not np.count_nonzero(full):
            return lost_s
        second_s = t.full_step_s + _chunk_s(t, budget, self._cached + budget)
        growth_s = np.where(full > 1.0, second_s - first_s, 0.0)
        grows = growth_s > 0.0
        steps = np.ceil((slack_s - first_s) / np.where(grows, growth_s, 1.0))
        kept = np.where(first_s >= slack_s, 0.0, np.where(grows, np.minimum(full, steps), full))
        count = full - kept
        mean_s = first_s + growth_s * (kept + full - 1.0) / 2.0
        lost_s += count * (mean_s - slack_s)
        return lost_s


def _chunk_s(traits: Traits, tokens: Number, context_tokens: Number) -> Number:
    """Time that a chunk adds to a step by itself; see `PerformanceModel.chunk_s`."""
    pairs = tokens * traits.prefill_attention_s * (context_tokens + tokens / 2.0)
    cost_s: Number = traits.prefill_token_s * tokens + pairs
    return cost_s
