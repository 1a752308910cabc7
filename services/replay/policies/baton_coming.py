"""Who is about to decode at a worker, and how late its KV will be: one link leads there.

Comes in: when prompts will be computed, what moving their KV takes. Goes out: seconds. KV moves while its
prompt is computed, so it is late only where what else moves to the same worker, or a long prefix that needed
no computing, takes longer than that.
Invariant: functions of values, as if what is ready first moves first. Not here: who goes where
(`baton_seats`), what links do (`services.replay.transfers`).
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """A request that is to decode at a worker and does not yet."""

    at_s: float
    """When it is expected."""
    is_shown: bool
    """Its first token is out, or about to be: a stall makes its first gap long."""
    begin_s: float
    """From when on its KV moves."""
    move_s: float
    """What that takes on a link of its own."""
    late_s: float = 0.0
    """How much later than its prompt its KV was expected when it was bound."""

    def rest_s(self, now_s: float) -> float:
        """Say how much of it has not moved yet, if it moves evenly."""
        if now_s >= self.at_s:
            return 0.0
        return self.move_s * min(1.0, (self.at_s - now_s) / (self.at_s - self.begin_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """What one more prompt on a link does."""

    own_s: float
    """How much later than the prompt its KV is there."""
    others_s: float
    """How much later that of others is then, together."""

    @property
    def whole_s(self) -> float:
        """Both."""
        return self.own_s + self.others_s


def lateness(coming: Iterable[Coming], *, move_s: float, end_s: float, now_s: float) -> Lateness:
    """Predict what moving a prompt's KV to a worker brings with it.

    Args:
        coming: who else moves there.
        move_s: what it takes on a link of its own.
        end_s: when the prompt is computed.
        now_s: from when on it can move.
    """
    moving = sorted((one.at_s, one.rest_s(now_s)) for one in coming)
    alone_s = now_s
    behind = []
    for at_s, rest_s in moving:
        if at_s <= end_s:
            alone_s = max(at_s, alone_s + rest_s)
        else:
            behind.append((at_s, rest_s))
    with_s = max(end_s, alone_s + move_s)
    own_s, others_s = with_s - end_s, 0.0
    for at_s, rest_s in behind:
        alone_s, with_s = max(at_s, alone_s + rest_s), max(at_s, with_s + rest_s)
        others_s += with_s - alone_s
    return Lateness(own_s=own_s, others_s=others_s)
