"""What one side of a link still has to send: bounded, ordered, for one reader.

Invariant: `OUTBOX_MESSAGES_MAX` messages wait at most; once finished nothing is added, and the reader
gets the rest unless it was discarded. Not here: transport.
"""

import asyncio
from collections import deque

from services.link.port import OUTBOX_MESSAGES_MAX


class Outbox:
    """Encoded messages on their way to the writer of one link."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._finished = False

    def put(self, message: bytes) -> bool:
        """Add a message; False when the outbox is full or finished, and the message went nowhere."""
        if self._finished or len(self._waiting) >= OUTBOX_MESSAGES_MAX:
            return False
        self._waiting.append(message)
        self._changed.set()
        return True

    def finish(self) -> None:
        """Accept nothing more; what waits is still taken."""
        self._finished = True
        self._changed.set()

    def discard(self) -> None:
        """Accept nothing more and drop what waits."""
        self._waiting.clear()
        self.finish()

    async def take(self) -> bytes | None:
        """Wait for the next message; None when there will be none."""
        while not self._waiting:
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()
