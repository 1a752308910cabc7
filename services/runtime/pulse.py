"""The pulse of a process: how long it may have stood still before it read a message.

Comes in: time, by beats of its own. Goes out: seconds that a message just read may be older than it seems.
A process that was stopped (SIGSTOP, a suspended machine, a starved loop) reads what waited in its sockets as
if it had come now; whatever ages, a lease above all, has aged meanwhile.
Invariant: never less than the standstill that the message may have waited through.
"""

import asyncio

from services.runtime.clock import Clock

BEAT_S = 0.25
"""Time between beats."""

STANDSTILL_S = 3 * BEAT_S
"""A gap between beats from this length on counts as a standstill: less is a busy loop."""

AFTERMATH_S = 5.0
"""How long after a standstill messages may still be from before it: they pass through other threads."""


class Pulse:
    """Beats while the loop turns."""

    def __init__(self, clock: Clock) -> None:
        """Make a pulse that has not begun to beat.

        Args:
            clock: by which standstills are measured.
        """
        self._clock = clock
        self._beat_s: float | None = None
        self._standstill_s = 0.0
        self._ended_s = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._feel()
            await asyncio.sleep(BEAT_S)

    def doubt_s(self) -> float:
        """Seconds by which a message that is read now may be older than it seems."""
        self._feel()
        return self._standstill_s if self._clock.now_s() - self._ended_s <= AFTERMATH_S else 0.0

    def _feel(self) -> None:
        now_s = self._clock.now_s()
        gap_s = 0.0 if self._beat_s is None else now_s - self._beat_s
        self._beat_s = now_s
        if gap_s < STANDSTILL_S:
            return
        recent = now_s - gap_s - self._ended_s <= AFTERMATH_S
        self._standstill_s = gap_s + (self._standstill_s if recent else 0.0)
        self._ended_s = now_s
