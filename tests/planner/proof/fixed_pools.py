"""Two pools of fixed size behind one late-bound queue, request by request: what the fluid cluster imitates.

Comes in: a trace, pool sizes, targets. Goes out: the shares of requests that met each target.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.slo import Slo
from services.replay.cluster import Cluster
from services.replay.policy import FirstToken, Fleet, Mechanisms, Way
from services.replay.presets import EngineTiming
from services.replay.sequence import Job
from services.replay.traces import Trace


class FixedPools:
    """First come, first served, what is late anyway behind the rest.

    A prefill worker between two steps takes what fits its next one.
    """

    mechanisms = Mechanisms(first_token=FirstToken.JUST_IN_TIME, streams_kv=True)

    def __init__(self, fleet: Fleet, prefill_count: int, ttft_s: float) -> None:
        """Begin with an empty queue."""
        self._ttft_s = ttft_s
        self._late: deque[Job] = deque()
        self._fleet = fleet
        self._prefill = range(prefill_count)
        self._decode = range(prefill_count, fleet.worker_count)
        self._held: deque[Job] = deque()
        self._given: dict[int, set[int]] = {worker: set() for worker in self._prefill}
        self._writing: dict[int, set[int]] = {worker: set() for worker in self._decode}

    @property
    def held_count(self) -> int:
        """Jobs in the queue."""
        return len(self._held) + len(self._late)

    def arrive(self, job: Job, now_s: float) -> Way | None:
        """Keep it."""
        self._held.append(job)
        return None

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Give workers without a prompt what fits one step."""
        ways: list[tuple[Job, Way]] = []
        timing = self._fleet.timing
        for worker in self._prefill:
            if self._given[worker]:
                continue
            room = timing.step_tokens_max
            while self._held and self._is_late(self._held[0], now_s):
                self._late.append(self._held.popleft())
            while queue := self._held or self._late:
                if queue[0].prompt_tokens > room and self._given[worker]:
                    break
                job = queue.popleft()
                room -= job.prompt_tokens
                self._given[worker].add(job.index)
                ways.append((job, Way(prefill=worker)))
        return ways

    def _is_late(self, job: Job, now_s: float) -> bool:
        timing = self._fleet.timing
        own_s = timing.performance.prompt_s(
            prompt_tokens=job.prompt_tokens, cached_tokens=0, step_tokens_max=timing.step_tokens_max
        )
        return now_s + own_s > job.arrival_s + self._ttft_s

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Take the worker with the fewest sequences."""
        worker = min(self._decode, key=lambda one: (len(self._writing[one]), one))
        self._writing[worker].add(job.index)
        return worker

    def spoke(self, job: Job, now_s: float) -> None:
        """Free the prefill worker."""
        for given in self._given.values():
            given.discard(job.index)

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Free the decode worker."""
        for writing in self._writing.values():
            writing.discard(job.index)

    def wake_s(self) -> float | None:
        """Never."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of all requests."""

    ttft: float
    tpot: float
    both: float


def served(trace: Trace, timing: EngineTiming, *, prefill: int, decode: int, slo: Slo) -> Shares:
    """Replay a trace and count."""
    cluster = Cluster(
        trace,
        timing,
        worker_count=prefill + decode,
        policy=lambda fleet: FixedPools(fleet, prefill, slo.ttft_s),
        itl_slo_s=slo.tpot_s,
    )
    cluster.run()
    ends = [worker.step_ends_s for worker in cluster.workers]
    ttft = tpot = both = 0
    for record in cluster.records:
        times_s = record.token_times_s(ends)
        is_first = times_s[0] - record.arrival_s <= slo.ttft_s
        is_pace = len(times_s) < 2 or (times_s[-1] - times_s[0]) / (len(times_s) - 1) <= slo.tpot_s
        ttft, tpot, both = ttft + is_first, tpot + is_pace, both + (is_first and is_pace)
    count = len(cluster.records)
    return Shares(ttft=ttft / count, tpot=tpot / count, both=both / count)
