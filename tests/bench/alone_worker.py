"""A worker as routers and the queue see it: an engine, the mirror of its cache, and what it claimed.

Comes in: prompts. Goes out: statuses, numbered KV batches, snapshots. The mirror is the live one
(`services.worker.holdings`). Not here: what it claims (`alone_live`).
"""

from math import inf

from services.domain.ids import EngineEpoch, WorkerId
from services.domain.worker import Lifecycle, Phase, WorkerLimits, WorkerLoad, WorkerStatus
from services.prefill.room import has_room
from services.replay.cache import BlockCache
from services.replay.presets import EngineTiming
from services.worker.holdings import Holdings
from tests.bench.alone_engine import Engine

MODEL = "m"


def limits_of(timing: EngineTiming, kv_blocks: int) -> WorkerLimits:
    """Say what stays while an engine lives."""
    return WorkerLimits(
        block_size_tokens=timing.block_size_tokens,
        kv_blocks=kv_blocks,
        kv_bytes_per_token=timing.kv_bytes_per_token,
        context_tokens_max=kv_blocks * timing.block_size_tokens,
        sequences_max=timing.sequences_max,
        step_tokens_max=timing.step_tokens_max,
        compatibility="simulated",
    )


def writer_status(timing: EngineTiming, sequence: int) -> WorkerStatus:
    """Status of a decode worker that is never busy: only prefill is asked about here."""
    return WorkerStatus(
        worker_id=WorkerId("writer"),
        epoch=EngineEpoch("writer"),
        sequence=sequence,
        model=MODEL,
        phases=(Phase.DECODE,),
        lifecycle=Lifecycle.READY,
        address="writer:1",
        limits=limits_of(timing, 1_000 * timing.kv_blocks),
        load=WorkerLoad(),
        performance=timing.performance,
        engine_kind="simulated",
        kv_sequence=0,
    )


class PrefillWorker:
    """One worker that prefills."""

    def __init__(self, name: str, timing: EngineTiming) -> None:
        self.worker_id = WorkerId(name)
        self.timing = timing
        self.cache = BlockCache(timing.kv_blocks)
        self.cache.keep_journal()
        self.engine = Engine(timing, self.cache)
        self.holdings = Holdings(self.worker_id)
        self._epoch = EngineEpoch(name)
        self.holdings.belong_to(self._epoch)
        self.draining = False
        self.claiming = False
        self.looks_again_s = inf
        """When it will look at the queue again, at the latest."""
        self.computing: dict[int, int] = {}
        """Uncached tokens by index of the prompts claimed and not computed yet."""
        self._status_sequence = 0

    def has_room(self) -> bool:
        """Whether it claims one more prompt."""
        return has_room(
            tuple(self.computing.values()),
            step_tokens_max=self.timing.step_tokens_max,
            sequences_max=self.timing.sequences_max,
        )

    def status(self) -> WorkerStatus:
        """Say what it is busy with."""
        self._status_sequence += 1
        free = self.cache.free_blocks
        return WorkerStatus(
            worker_id=self.worker_id,
            epoch=self._epoch,
            sequence=self._status_sequence,
            model=MODEL,
            phases=(Phase.PREFILL,),
            lifecycle=Lifecycle.READY,
            address=f"{self.worker_id}:1",
            limits=limits_of(self.timing, self.timing.kv_blocks),
            load=WorkerLoad(
                waiting_count=self.engine.work_count,
                waiting_prefill_tokens=self.engine.left_tokens(),
                kv_used_blocks=self.timing.kv_blocks - free,
            ),
            performance=self.timing.performance,
            engine_kind="simulated",
            kv_sequence=self.holdings.sequence,
        )
