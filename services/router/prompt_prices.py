"""What a prompt costs at each worker, by the performance model each announces.

Comes in: a prompt, leading tokens that exist, workers in columns. Goes out: seconds and steps in columns.
Invariant: each entry is the sum over the steps that `PerformanceModel.prefill_s` prices; no operation mixes
workers. Full steps grow evenly, because each new chunk attends to one chunk more: that gives a closed form.
Not here: waiting and choosing (`services.router.ways`).
"""

from math import inf

import numpy as np

from services.router.columns import Column, Number, Traits, rounded_up


class PromptPrices:
    """A prompt's prefill at each worker, in the steps that its budget cuts it into: full ones, then the last.

    The last step has from one token to a whole budget, so that there always is one.
    """

    def __init__(self, traits: Traits, *, prompt_tokens: int, cached_tokens: Number, bends: bool) -> None:
        """Price the whole prefill.

        Args:
            traits: of the workers.
            prompt_tokens: whole prompt, >= 1.
            cached_tokens: leading tokens whose KV exists, below the whole.
            bends: whether a performance model has a square of its own.
        """
        t, budget = traits, traits.step_tokens_max
        self._traits, self._cached = traits, cached_tokens
        self.new_tokens: Number = prompt_tokens - cached_tokens
        self._full_count = rounded_up(self.new_tokens / budget) - 1.0
        last = self.new_tokens - self._full_count * budget
        # Tokens of the last step attend to the whole prompt, but for half of their own.
        each_s = (prompt_tokens * t.prefill_attention_s + t.prefill_token_s) - last * (
            t.prefill_attention_s / 2.0
        )
        last_s: Number = last * each_s + t.prefill_step_s
        if bends:
            last_s = last_s + last * last * t.prefill_square_s
        half_s = self._growth_s() / 2.0
        mean_s = self._full_count * half_s + (self._first_s() - half_s)
        self._full_s: Number = self._full_count * mean_s
        self._last_s = last_s
        self.total_s: Number = self._full_s + last_s

    @property
    def step_count(self) -> Number:
        """How many steps it takes."""
        return self._full_count + 1.0

    def stall_s(self, *, decode_step_s: Column, tpot_s: float) -> Column:
        """Time that one running request loses beyond its target while the prompt is computed.

        Steps that miss the target without the prompt lose only what the prompt adds; steps that keep it
        lose nothing.

        Args:
            decode_step_s: the decode part of each step, s.
            tpot_s: what a step may take, s.
        """
        slack_s = np.maximum(0.0, tpot_s - decode_step_s)
        lost_s: Column = self._full_s - slack_s * self._full_count
        shortest_s = self._traits.full_step_s
        if isinstance(shortest_s, np.ndarray) or shortest_s < tpot_s:
            lost_s = self._but_kept_s(lost_s, slack_s)
        lost_s += np.maximum(0.0, self._last_s - slack_s)
        return lost_s

    def _first_s(self) -> Number:
        """The first of the full steps."""
        t = self._traits
        return self._cached * (t.prefill_attention_s * t.step_tokens_max) + t.full_step_s

    def _growth_s(self) -> Number:
        """What each full step takes more than the one before it."""
        t = self._traits
        return t.prefill_attention_s * t.step_tokens_max * t.step_tokens_max

    def _but_kept_s(self, lost_s: Column, slack_s: Column) -> Column:
        """Leave out the full steps that keep the target: the first ones, for they grow."""
        first_s, growth_s, count = self._first_s(), self._growth_s(), self._full_count
        some = (slack_s > first_s) & (count > 0.0)
        if not np.count_nonzero(some):
            return lost_s
        grows = growth_s > 0.0
        kept = np.where(grows, np.ceil((slack_s - first_s) / np.where(grows, growth_s, 1.0)), inf)
        kept = np.minimum(count, kept)
        mean_s = first_s + growth_s * (kept + count - 1.0) / 2.0
        return np.where(some, (count - kept) * (mean_s - slack_s), lost_s)
