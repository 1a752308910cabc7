"""What a prompt costs at each worker, by the performance model each announces.

Comes in: a prompt, leading tokens that exist, workers in columns. Goes out: seconds and steps in columns.
Invariant: each entry is the sum over the steps that `PerformanceModel.prefill_s` prices; no operation mixes
workers. What tokens add by themselves is counted from the beginning of the prompt, so that a stretch of them
is a difference; full steps grow evenly, because each new chunk attends to one chunk more.
Not here: waiting and choosing (`services.router.pricing.ways`).
"""

from math import inf

import numpy as np

from services.router.fleet.columns import ZERO, Column, Number, Traits, rounded_down


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
        budget = traits.step_tokens_max
        self._traits, self._bends = traits, bends
        self._prompt_tokens, self._cached = prompt_tokens, cached_tokens
        full_count = rounded_down((prompt_tokens - 1.0 - cached_tokens) / budget)
        step_s: Number = traits.prefill_step_s
        # Of a prompt of one step, whole and last step are equal to the last bit: no stall is exactly 0.
        self._whole_s = self._prefix_s(float(prompt_tokens)) + step_s
        total_s = self._whole_s - self._prefix_s(cached_tokens)
        if bends:
            last = prompt_tokens - (full_count * budget + cached_tokens)
            total_s = total_s + last * last * traits.prefill_square_s
            step_s = step_s + budget * budget * traits.prefill_square_s
        self.total_s: Number = full_count * step_s + total_s
        self._full_count = full_count

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
        slack_s = np.maximum(tpot_s - decode_step_s, ZERO)
        last_s = self._last_s()
        last_free_s = np.minimum(last_s, slack_s)
        lost_s: Column = self.total_s - (slack_s * self._full_count + last_free_s)
        shortest_s = self._traits.full_step_s
        if isinstance(shortest_s, np.ndarray) or shortest_s < tpot_s:
            lost_s = self._but_kept_s(lost_s, slack_s, last_s - last_free_s)
        return lost_s

    def _prefix_s(self, tokens: Number) -> Number:
        """What the first tokens of a prompt add to steps by themselves; see `PerformanceModel.chunk_s`."""
        t = self._traits
        cost_s: Number = (tokens * (t.prefill_attention_s / 2.0) + t.prefill_token_s) * tokens
        return cost_s

    def _last_s(self) -> Number:
        """The last step."""
        t = self._traits
        before = self._full_count * t.step_tokens_max + self._cached
        last_s = self._whole_s - self._prefix_s(before)
        if self._bends:
            last = self._prompt_tokens - before
            last_s = last_s + last * last * t.prefill_square_s
        return last_s

    def _but_kept_s(self, lost_s: Column, slack_s: Column, lost_last_s: Column) -> Column:
        """Leave out the full steps that keep the target: the first ones, for they grow."""
        t, count = self._traits, self._full_count
        growth_s = t.prefill_attention_s * t.step_tokens_max * t.step_tokens_max
        first_s = self._cached * (t.prefill_attention_s * t.step_tokens_max) + t.full_step_s
        some = (slack_s > first_s) & (count > 0.0)
        if not np.count_nonzero(some):
            return lost_s
        grows = growth_s > 0.0
        kept = np.where(grows, np.ceil((slack_s - first_s) / np.where(grows, growth_s, 1.0)), inf)
        kept = np.minimum(count, kept)
        mean_s = first_s + growth_s * (kept + count - 1.0) / 2.0
        return np.where(some, (count - kept) * (mean_s - slack_s) + lost_last_s, lost_s)
