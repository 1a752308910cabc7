"""One task that this worker claimed, until its gateway has answered.

Comes in: a claimed task. Goes out: what the phase notes of it. Not here: what happens to it (`phase`).
"""

import asyncio
from dataclasses import dataclass, field

from services.domain.ids import GatewayId, RequestId, TaskId
from services.domain.performance import PrefillChunk
from services.domain.task import ClaimedTask
from services.engine.port import Prefilled


@dataclass(slots=True, kw_only=True)
class Job:
    """A claimed task at work.

    Attributes:
        claimed: as the queue gave it, with the newest revision.
        started_s: by the worker's clock.
        uncached_tokens: of its prompt, those that were not cached here when it was claimed.
        offered: the result that was handed over; None while it computes.
        timer: of its deadline while it computes, then of its gateway's answer.
        writing: held while the queue's entry is written: each write needs the revision that the last one
            made.
    """

    claimed: ClaimedTask
    started_s: float
    uncached_tokens: int
    offered: Prefilled | None = None
    timer: asyncio.TimerHandle | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def chunk(self) -> PrefillChunk:
        """What of its prompt is computed."""
        cached_tokens = self.claimed.task.record.prompt_tokens - self.uncached_tokens
        return PrefillChunk(new_tokens=self.uncached_tokens, context_tokens=cached_tokens)

    @property
    def task_id(self) -> TaskId:
        """Id of the task."""
        return self.claimed.task.record.task_id

    @property
    def gateway_id(self) -> GatewayId:
        """Who waits for it."""
        return self.claimed.task.record.gateway_id

    @property
    def request_id(self) -> RequestId:
        """Id of the attempt that it serves."""
        return self.claimed.task.request.request_id

    def disarm(self) -> None:
        """Stop its timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
