"""How many decoding requests a prompt is expected to spoil where it is computed.

Comes in: lengths of outputs that ended, what decoding requests have behind them, how long prompts wait. Goes
out: an expected count, and what one request is worth. A stall is made up for: the tail of a request bears one
long gap in each hundred, its mean gains what its steps are shorter than the target. So each request has a
length at which a stall no longer counts, and the chance that it ends before is the chance that the stall
spoils it: this counts on what it will still write, as lengths seen lately tell.
Invariant: functions of values; a longer stall never spoils less. Not here: who asks.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

TAIL_FRAC = 0.01
"""Share of gaps that may be long: targets are judged at the 99th percentile."""
SPOILT_FRAC = 0.4
"""Share of the TTFT target that keeping one more request within its own tail is worth to who does not know
how long prompts wait. A choice: less of it gives shorter TTFT and more requests with a long gap, more of it
the opposite."""
WORTH_FRAC = 0.033
"""The same for who does, while prompts wait for a TTFT target on average; the same choice."""
WORTH_MOST_FRAC = 0.75
"""The same at most, however short waits are."""
GAIN_LEAST_FRAC = 0.01
"""Share of the TPOT target that a step is taken to be shorter than that target at least."""
LENGTHS_COUNT = 400
"""Outputs remembered: enough for a survival of 1 % to be seen."""
BELIEVED_COUNT = 8.0
"""Weight, in outputs, of what is believed before any has ended: lengths without memory, of this mean:"""
BELIEVED_TOKENS = 256.0
REFRESH_COUNT = 20
"""Outputs after which the table of survival is made again."""


def step_gain_s(step_s: float, tpot_target_s: float) -> float:
    """Say by how much each usual step makes up for a long one, s, > 0."""
    return max(tpot_target_s - step_s, GAIN_LEAST_FRAC * tpot_target_s)


def spoilt_worth_s(wait_s: float, ttft_target_s: float) -> float:
    """Say what keeping one more request within its own tail is worth, in seconds of TTFT.

    A wait is taken to be as bad as its square, so the longer prompts wait, the more a second less of it
    counts, and the fewer seconds one request is worth: stalls are rare while hardly anybody waits, and
    frequent in busy minutes.

    Args:
        wait_s: of prompts, on average, >= 0.
        ttft_target_s: of a request, > 0.
    """
    return ttft_target_s / max(1 / WORTH_MOST_FRAC, wait_s / (WORTH_FRAC * ttft_target_s))


class LengthRecord:
    """Folds lengths of outputs into their survival."""

    def __init__(self) -> None:
        """Know of no output."""
        self._newest: deque[int] = deque()
        self._sorted: list[int] = []
        self._sum = 0
        self._stale_count = 0
        self._table: list[float] = []

    @property
    def mean_tokens(self) -> float:
        """Mean length."""
        return (self._sum + BELIEVED_COUNT * BELIEVED_TOKENS) / (len(self._sorted) + BELIEVED_COUNT)

    def fold(self, output_tokens: int) -> None:
        """Take the length of an output that ended."""
        self._newest.append(output_tokens)
        insort(self._sorted, output_tokens)
        self._sum += output_tokens
        self._stale_count += 1
        if len(self._newest) > LENGTHS_COUNT:
            oldest = self._newest.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._sum -= oldest

    def survival(self) -> Sequence[float]:
        """List the share of outputs that have at least so many tokens, by that number; beyond: the last."""
        if not self._table or self._stale_count >= REFRESH_COUNT:
            self._stale_count = 0
            longest = self._sorted[-1] if self._sorted else 4 * int(BELIEVED_TOKENS)
            self._table = [self._share(tokens) for tokens in range(longest + 2)]
        return self._table

    def _share(self, tokens: int) -> float:
        known = len(self._sorted) - bisect_left(self._sorted, tokens)
        return (known + BELIEVED_COUNT * exp(-tokens / BELIEVED_TOKENS)) / (
            len(self._sorted) + BELIEVED_COUNT
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A decoding request held against its targets.

    Attributes:
        written_tokens: since it decodes here.
        stalls_count: gaps among them in which a prompt was computed.
        ahead_s: how much sooner they were written than the target for their mean asks; below 0: later.
    """

    written_tokens: int
    stalls_count: int
    ahead_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What a decoding request has behind it.

    Attributes:
        written_tokens: since it decodes here.
        stalls_count: gaps among them in which a prompt was computed.
        elapsed_s: time in which they were written.
    """

    written_tokens: int
    stalls_count: int
    elapsed_s: float

    def standing(self, tpot_s: float) -> Standing:
        """Hold it against a target for its mean time per token."""
        return Standing(
            written_tokens=self.written_tokens,
            stalls_count=self.stalls_count,
            ahead_s=tpot_s * self.written_tokens - self.elapsed_s,
        )


def spoilt_count(
    standings: Sequence[Standing],
    *,
    stall_s: float,
    stalls_count: int,
    gain_s: float,
    survival: Sequence[float],
    most: float,
) -> float:
    """Predict how many requests a prompt spoils that were not spoilt before.

    Args:
        standings: of the worker's requests.
        stall_s: how long all steps of the prompt together take.
        stalls_count: its steps, >= 1.
        gain_s: how much shorter than its target a step without a prompt is, > 0.
        survival: of lengths, as `LengthRecord` has it.
        most: once it is more, how much more does not matter.

    Returns:
        The expected number; above `most` a lower bound of it.
    """
    tail_tokens = 1 / TAIL_FRAC
    last = len(survival) - 1
    count = 0.0
    for request in standings:
        written = request.written_tokens
        after = max(
            (request.stalls_count + stalls_count) * tail_tokens,
            written + (stall_s - request.ahead_s) / gain_s,
        )
        if after <= written:
            continue
        before = max(request.stalls_count * tail_tokens, written - request.ahead_s / gain_s, written + 1)
        alive = survival[min(last, written + 1)]
        count += (survival[min(last, int(before))] - survival[min(last, int(max(after, before)))]) / alive
        if count > most:
            break
    return count
