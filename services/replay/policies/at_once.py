"""Policies that place every job when it arrives, on one pool or on two of fixed size.

Comes in: a choice per pool. Goes out: ways. With two pools the decode worker is chosen when it is needed.
Invariant: nothing is kept. Not here: how a worker is chosen (one module per policy).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.replay.policy import Mechanisms, Way
from services.replay.sequence import Job


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers that do the same."""

    workers: range
    """Their numbers."""
    prefills: bool
    decodes: bool


class Chooser(Protocol):
    """Chooses within one pool, and keeps its own account of it."""

    def choose(self, job: Job) -> int:
        """Choose a worker of the pool and account for the job there."""
        ...

    def spoke(self, job: Job) -> None:
        """Learn that the prompt of a job chosen for here is computed."""
        ...

    def ended(self, job: Job) -> None:
        """Forget a job chosen for here: the pool is done with it."""
        ...


def tie_break(job: Job, worker: int) -> int:
    """Order equal workers differently for each job, and always the same."""
    mixed = (job.index * 0x9E3779B97F4A7C15 + worker * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ mixed >> 31) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return mixed ^ mixed >> 29


class AtOnce:
    """Places at arrival."""

    def __init__(self, mechanisms: Mechanisms, prefill: Chooser, decode: Chooser | None = None) -> None:
        """Make a policy.

        Args:
            mechanisms: how handoffs work.
            prefill: chooses who computes prompts.
            decode: chooses who writes; None: whoever computed the prompt.
        """
        self.mechanisms = mechanisms
        self.held_count = 0
        self._prefill = prefill
        self._decode = decode

    def arrive(self, job: Job, now_s: float) -> Way:
        """Place a job."""
        worker = self._prefill.choose(job)
        return Way(prefill=worker, decode=worker if self._decode is None else None)

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Hand out nothing."""
        return ()

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Choose who writes."""
        return prefill if self._decode is None else self._decode.choose(job)

    def spoke(self, job: Job, now_s: float) -> None:
        """Learn that a prompt is computed; with two pools the first is done with the job."""
        self._prefill.spoke(job)
        if self._decode is not None:
            self._prefill.ended(job)

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Learn that a job has all its tokens."""
        (self._decode or self._prefill).ended(job)

    def wake_s(self) -> float | None:
        """Never."""
        return None
