"""A fleet that is what a test says, and jobs with named beginnings, to ask one choice at a time.

Comes in: states. Goes out: a fleet. Not here: whole replays (`scenery`).
"""

from collections.abc import Sequence
from dataclasses import replace

from services.domain.spoiling import Decoding
from services.replay.policy import Running, WorkerState
from services.replay.presets import EngineTiming
from services.replay.sequence import Job
from tests.replay.scenery import PEERS_ENGINE

IDLE = WorkerState(
    decode_count=0,
    decode_context_tokens=0,
    waiting_count=0,
    pulling_count=0,
    prefill_count=0,
    prefill_pending_tokens=0,
    free_blocks=PEERS_ENGINE.kv_blocks,
    step_end_s=None,
)


class StillFleet:
    """Workers that only change when a test changes them."""

    def __init__(self, worker_count: int, timing: EngineTiming = PEERS_ENGINE) -> None:
        """Make idle workers with empty caches."""
        self.timing = timing
        self.worker_count = worker_count
        self.states = [replace(IDLE, free_blocks=timing.kv_blocks) for _ in range(worker_count)]
        self.cached: list[set[int]] = [set() for _ in range(worker_count)]
        self.decoding: list[Sequence[Decoding]] = [() for _ in range(worker_count)]
        self.sequences: list[Sequence[Running]] = [() for _ in range(worker_count)]

    def state(self, worker: int) -> WorkerState:
        """Look at a worker."""
        return self.states[worker]

    def overlap_blocks(self, worker: int, block_names: Sequence[int]) -> int:
        """Count the leading blocks that a worker holds."""
        for count, name in enumerate(block_names):
            if name not in self.cached[worker]:
                return count
        return len(block_names)

    def running(self, worker: int) -> Sequence[Running]:
        """Look at which sequences decode there."""
        return self.sequences[worker]

    def decodes(self, worker: int) -> Sequence[Decoding]:
        """Look at who decodes there."""
        return self.decoding[worker]


def job(index: int, *names: int, tail_tokens: int = 0, arrival_s: float = 0.0) -> Job:
    """Make a job of these full blocks of 64 tokens, and some tokens behind them."""
    return Job(
        index=index, arrival_s=arrival_s, prompt_tokens=64 * len(names) + tail_tokens, block_names=list(names)
    )
