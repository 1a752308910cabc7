"""Stop strings: end the output before them, wherever tokens happen to split them.

Comes in: text as it is decoded. Goes out: the text that may be shown.
Invariant: no part of a stop string that ends the output is ever released; what is held back is
shorter than the longest stop string.
"""

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string in a growing text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._reach = max((len(s) for s in self._stops), default=1) - 1
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text, once one did."""

    def push(self, text: str) -> str:
        """Add text; give back what can no longer become part of a stop string.

        When `found` is set afterwards, the text given back ends right before that stop string and
        everything behind it is dropped.
        """
        if not self._stops:
            return text
        whole = self._held + text
        hits = [(at, stop) for stop in self._stops if (at := whole.find(stop)) >= 0]
        if hits:
            at, self.found = min(hits)
            self._held = ""
            return whole[:at]
        keep = self._tail_length(whole)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def flush(self) -> str:
        """Give back what was held: the text ended, so it is no stop string."""
        held, self._held = self._held, ""
        return held

    def _tail_length(self, whole: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for length in range(min(len(whole), self._reach), 0, -1):
            tail = whole[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
