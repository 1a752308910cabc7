"""Bounded buffers between a bus that delivers and a reader that iterates.

Comes in: messages, from callbacks that cannot wait. Goes out: the same to one `async for`.
Invariant: no buffer grows without bound: `Inbox` drops the oldest and counts it, `LatestInbox` keeps
only the newest message of each key.
Not here: where messages come from.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, Self, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Inbox(Generic[T]):
    """The last `limit` messages that its reader has not taken yet, in order."""

    def __init__(self, limit: int) -> None:
        self._messages: deque[T] = deque(maxlen=limit)
        self._wakeup = asyncio.Event()
        self._closed = False
        self.dropped_count = 0
        """Messages lost because the reader fell behind."""

    def put(self, message: T) -> None:
        """Add a message; the oldest one goes when there is no room."""
        self.dropped_count += len(self._messages) == self._messages.maxlen
        self._messages.append(message)
        self._wakeup.set()

    def close(self) -> None:
        """End the iteration behind what is buffered now."""
        self._closed = True
        self._wakeup.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._messages.popleft()


class LatestInbox(Generic[K, T]):
    """The newest message of each key that its reader has not taken yet, in order of first arrival.

    Bounded by the number of keys; for messages that say a state, so that an older one is not missed.
    """

    def __init__(self) -> None:
        self._messages: dict[K, T] = {}
        self._wakeup = asyncio.Event()
        self._closed = False

    def put(self, key: K, message: T) -> None:
        """Add a message in place of an older one of its key."""
        self._messages[key] = message
        self._wakeup.set()

    def close(self) -> None:
        """End the iteration behind what is buffered now."""
        self._closed = True
        self._wakeup.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        return self._messages.pop(next(iter(self._messages)))
