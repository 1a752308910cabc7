"""Text to token ids, without stopping the event loop for long texts.

Comes in: a function and the length of its input. Goes out: its result.
Invariant: the loop itself only runs short inputs; threads and waiting inputs are bounded.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.domain.errors import Saturated
from services.gateway.edge.settings import EdgeSettings

T = TypeVar("T")


class Tokenizing:
    """A few threads for long prompts."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._inline_chars_max = settings.inline_chars_max
        self._waiting_max = settings.tokenize_waiting_max
        self._waiting_count = 0
        self._threads = ThreadPoolExecutor(settings.tokenize_threads, thread_name_prefix="tokenize")

    async def run(self, chars: int, work: Callable[[], T]) -> T:
        """Run work at once when its input is short, else on a thread.

        A thread cannot be interrupted: when the caller gives up, the work ends unseen and keeps its
        place until then.

        Raises:
            Saturated: too many inputs wait for a thread.
        """
        if chars <= self._inline_chars_max:
            return work()
        if self._waiting_count >= self._waiting_max:
            raise Saturated(message="too many long prompts at once; try again later", retry_after_s=1.0)
        self._waiting_count += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._ended)
        return await future

    def _ended(self, _: object) -> None:
        self._waiting_count -= 1

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
