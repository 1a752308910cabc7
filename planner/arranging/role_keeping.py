"""Who may not be turned back to the other role yet.

Comes in: turns, and at each look what turning one back would save. Goes out: whether it may be done.
Not here: the turns themselves (`arranger`).

A turn costs what the worker does not do meanwhile, and whether it helped is seen only when requests that
began after it have ended. So none is turned back before its turn has had time to show, and then only if
that would have been better on the average of all that time, by more than the plan allows to be late: what
one look suggests is chance. A turn that is taken back soon was made by chance, too, so the next one is kept
for twice as long: turns an hour grow with the logarithm of the hour, whatever the noise.
"""

from collections import deque
from dataclasses import dataclass, field

from planner.observation import PoolKey
from services.domain.worker import Phase


@dataclass(slots=True, kw_only=True)
class _Turned:
    """The last turn of workers of one kind.

    Attributes:
        source: role that they left.
        begun_s: when the first of them left it.
        at_s: when the last of them did.
        hold_s: for how long none is turned back.
        gains: late requests that turning one back would have saved, as a share, with the moment of the look.
    """

    source: Phase
    begun_s: float
    at_s: float
    hold_s: float
    gains: deque[tuple[float, float]] = field(default_factory=deque)


class RoleKeeping:
    """Which workers may not be turned back yet."""

    def __init__(self, hold_max_s: float) -> None:
        """Begin without any turn.

        Args:
            hold_max_s: no turn is kept for longer on account of those before it.
        """
        self._hold_max_s = hold_max_s
        self._turned: dict[str, _Turned] = {}

    def ways_back(self) -> tuple[PoolKey, ...]:
        """Say from which pools workers would be turned back."""
        return tuple((turned.source.other, kind) for kind, turned in self._turned.items())

    def may_turn_back(self, kind: str, at_s: float, gain: float, *, least: float) -> bool:
        """Take what turning one back would save at this look; whether it may be done.

        Args:
            kind: of the workers.
            at_s: moment of the look.
            gain: share of requests that would be late no more; below 0 where more would be.
            least: a smaller saving is none.
        """
        turned = self._turned[kind]
        turned.gains.append((at_s, gain))
        while turned.gains[0][0] < at_s - turned.hold_s:
            turned.gains.popleft()
        if at_s - turned.at_s < turned.hold_s:
            return False
        return sum(saved for _moment, saved in turned.gains) > least * len(turned.gains)

    def note(self, kind: str, source: Phase, at_s: float, *, show_s: float) -> None:
        """Take note of a turn.

        Args:
            kind: of the workers.
            source: role that they leave.
            at_s: moment.
            show_s: time until it can be seen whether that helped.
        """
        before = self._turned.get(kind)
        if before is not None and before.source is source:
            before.at_s, before.hold_s = at_s, max(before.hold_s, show_s)
            return
        hold_s = show_s
        if before is not None and at_s - before.begun_s < 2.0 * before.hold_s:
            hold_s = max(show_s, min(self._hold_max_s, 2.0 * before.hold_s))
        self._turned[kind] = _Turned(source=source, begun_s=at_s, at_s=at_s, hold_s=hold_s)
