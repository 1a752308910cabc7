"""Bounded buffers between a bus that delivers and a reader that iterates.

Comes in: messages, from callbacks that cannot wait. Goes out: the same to one `async for`.
Invariant: no buffer grows without bound: `Inbox` drops the oldest and counts it, `LatestInbox` keeps
only the newest message of each key.
Not here: where messages come from.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Self, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def ignore_drop(what: str) -> None:
    """Count nothing: for a bus whose drops nobody asks for."""
    del what


class Inbox(Generic[T]):
    """The last `limit` messages that its reader has not taken yet, in order."""

    def __init__(self, limit: int, on_drop: Callable[[], None]) -> None:
        """Make an empty inbox.

        Args:
            limit: most messages kept.
            on_drop: told of each message that was dropped; must not block or raise.
        """
        self._messages: deque[T] = deque(maxlen=limit)
        self._on_drop = on_drop
        self._wakeup = asyncio.Event()
        self._closed = False

    def put(self, message: T) -> None:
        """Add a message; the oldest one goes when there is no room."""
        if len(self._messages) == self._messages.maxlen:
            self._on_drop()
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
