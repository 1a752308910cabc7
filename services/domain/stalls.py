"""What a prompt costs the requests that decode where it is computed.

Comes in: what each of them has behind it, how long the prompt stalls them. Goes out: a price in seconds of
TTFT, or a refusal. Each decoding request keeps two accounts: its mean (time in hand beneath the target for
the tokens it has written), and its tail (one gap in a hundred may be long without moving its 99th
percentile). A stall that both accounts bear, or the tail alone, costs nothing; one that neither bears is
refused. One that spoils the tail only is paid for: it lengthens that request's time per token by a share of
its target, and is worth as much TTFT as makes up the same share of that target.
Invariant: functions of values. Not here: who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TAIL_FRAC = 0.01
"""Share of gaps that may be long: targets are judged at the 99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What requests are judged by, and how long they are."""

    ttft_s: float
    tpot_s: float
    output_tokens: float
    """Expected length of an output."""

    @property
    def ttft_per_stall(self) -> float:
        """Seconds of TTFT that one request's stall of a second is worth."""
        return self.ttft_s / (self.output_tokens * self.tpot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """One decoding request.

    Attributes:
        written_tokens: since it decodes here.
        stalls_count: gaps among them in which a prompt was computed.
        elapsed_s: time in which they were written.
    """

    written_tokens: int
    stalls_count: int
    elapsed_s: float

    def bears(self, stall_s: float, stalls_count: int, tpot_s: float) -> tuple[bool, bool]:
        """Say whether its tail and its mean stay within their targets."""
        tail = int(self.written_tokens * TAIL_FRAC) - self.stalls_count >= stalls_count
        return tail, tpot_s * self.written_tokens - self.elapsed_s >= stall_s


def stall_price_s(
    decoding: Sequence[Decoding], *, stall_s: float, stalls_count: int, targets: Targets
) -> float | None:
    """Price a prompt on a worker that decodes.

    Args:
        decoding: the worker's requests.
        stall_s: how long all steps of the prompt together take.
        stalls_count: its steps.
        targets: what they are judged by.

    Returns:
        Seconds of TTFT; None: one of them could not bear it.
    """
    spoilt = 0
    for request in decoding:
        tail, mean = request.bears(stall_s, stalls_count, targets.tpot_s)
        if not tail and not mean:
            return None
        spoilt += not tail
    return targets.ttft_per_stall * spoilt * stall_s
