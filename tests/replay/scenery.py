"""Small engines, small traces, and a policy that uses everything the port offers.

Comes in: numbers drawn by hypothesis. Goes out: things to replay.
"""

from collections.abc import Sequence

from hypothesis import strategies as st

from services.domain.performance import PerformanceModel, preset
from services.replay.cluster import Cluster
from services.replay.policy import FirstToken, Fleet, Mechanisms, Move, Way
from services.replay.presets import EngineTiming
from services.replay.sequence import Job
from services.replay.traces import PrefixNames, Trace, TracedRequest, ordered

BLOCK_TOKENS = 4

MODEL = PerformanceModel(
    prefill_step_s=11e-3,
    prefill_token_s=0.13e-3,
    prefill_attention_s=0.7e-6,
    decode_step_s=5e-3,
    decode_sequence_s=0.31e-3,
    decode_context_token_s=0.017e-3,
    handoff_s=1.7e-3,
    transfer_bytes_per_s=50e3,
    prefill_square_s=0.3e-6,
    decode_context_square_s=-3e-8,
    decode_least_s=5.6e-3,
)


def engine(
    *, kv_blocks: int = 64, sequences: int = 8, step_tokens: int = 24, model: PerformanceModel = MODEL
) -> EngineTiming:
    """A small engine with blocks of 4 tokens and a byte per token of KV."""
    return EngineTiming(
        performance=model,
        block_size_tokens=BLOCK_TOKENS,
        kv_blocks=kv_blocks,
        kv_bytes_per_token=10,
        sequences_max=sequences,
        step_tokens_max=step_tokens,
    )


PEERS_ENGINE = EngineTiming(performance=preset("dynamo-mocker"), block_size_tokens=64, kv_blocks=16_384)


def trace_of(
    *requests: tuple[float, int, int, Sequence[int]], trace_block_tokens: int = BLOCK_TOKENS
) -> Trace:
    """Make a trace of (arrival s, prompt tokens, output tokens, names of its leading trace blocks)."""
    names = PrefixNames()
    made = [
        TracedRequest(
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=output,
            prefix_ids=names.chain(prefix, -(-prompt // trace_block_tokens)),
        )
        for arrival_s, prompt, output, prefix in requests
    ]
    trace = ordered("small", made)
    return Trace(name=trace.name, requests=trace.requests, trace_block_tokens=trace_block_tokens)


@st.composite
def traces(draw: st.DrawFn, *, requests_max: int = 14, prompt_max: int = 60, output_max: int = 40) -> Trace:
    """Traces whose arrivals fall together or apart, and whose prompts share beginnings."""
    count = draw(st.integers(1, requests_max))
    at_s = 0.0
    requests = []
    for _ in range(count):
        at_s += draw(st.sampled_from((0.0, 0.0013, 0.0171, 0.0919, 0.4337)))
        prompt = draw(st.integers(1, prompt_max))
        shared = draw(st.integers(0, prompt // BLOCK_TOKENS))
        family = draw(st.integers(0, 2))
        requests.append((at_s, prompt, draw(st.integers(1, output_max)), [family] * shared))
    return trace_of(*requests)


mechanisms = st.builds(
    Mechanisms,
    first_token=st.sampled_from(FirstToken),
    streams_kv=st.booleans(),
    streams_layers=st.booleans(),
    shares_links=st.booleans(),
    moves_whole_prompts=st.booleans(),
)


class LateBound:
    """Keeps every job in one queue, shortest first, and gives it to a worker that has no prompt to compute.

    Writes where most blocks are free, the prefill worker included, and fetches prefixes from peers.
    """

    def __init__(self, fleet: Fleet, mechanisms: Mechanisms) -> None:
        """Keep nothing yet."""
        self.mechanisms = mechanisms
        self._fleet = fleet
        self._queue: list[Job] = []
        self.spoken: list[int] = []
        self.done: list[int] = []

    @property
    def held_count(self) -> int:
        """Jobs that it keeps."""
        return len(self._queue)

    def arrive(self, job: Job, now_s: float) -> Way | None:
        """Keep every job."""
        self._queue.append(job)
        self._queue.sort(key=lambda kept: (kept.prompt_tokens, kept.index))
        return None

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Give the shortest prompt to each worker that has none."""
        found = []
        for worker in range(self._fleet.worker_count):
            if self._queue and self._fleet.state(worker).prefill_pending_tokens == 0:
                job = self._queue.pop(0)
                held = {
                    peer: self._fleet.overlap_blocks(peer, job.block_names)
                    for peer in range(self._fleet.worker_count)
                }
                best = max(held, key=lambda peer: (held[peer], peer))
                fetched = held[best] if held[best] > held[worker] else 0
                found.append(
                    (job, Way(prefill=worker, fetch_from=best if fetched else None, fetch_blocks=fetched))
                )
        return found

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Choose the worker with most free blocks."""
        return max(
            range(self._fleet.worker_count),
            key=lambda worker: (self._fleet.state(worker).free_blocks, worker),
        )

    def spoke(self, job: Job, now_s: float) -> None:
        """Note it."""
        self.spoken.append(job.index)

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Note it."""
        self.done.append(job.index)

    def wake_s(self) -> float | None:
        """Never."""
        return None


class Restless(LateBound):
    """The same, and whenever it may it moves a sequence to the next worker, room or not."""

    def __init__(self, fleet: Fleet, mechanisms: Mechanisms) -> None:
        """Move nothing yet."""
        super().__init__(fleet, mechanisms)
        self.moving: set[int] = set()
        self.ends: list[tuple[int, bool]] = []
        """Of moves: whose, and whether the target goes on."""

    def moves(self, now_s: float) -> Sequence[Move]:
        """Move the last sequence of each worker that decodes, unless it is on its way already."""
        count = self._fleet.worker_count
        found = []
        for worker in range(count):
            running = [one for one in self._fleet.running(worker) if one.job.index not in self.moving]
            if running and count > 1:
                job = running[-1].job
                self.moving.add(job.index)
                found.append(Move(job=job, source=worker, target=(worker + 1) % count))
        return found

    def moved(self, move: Move, now_s: float, *, is_there: bool) -> None:
        """Note it."""
        self.moving.remove(move.job.index)
        self.ends.append((move.job.index, is_there))


def token_times_s(cluster: Cluster) -> list[list[float]]:
    """List when each request's tokens came out."""
    ends = [worker.step_ends_s for worker in cluster.workers]
    return [record.token_times_s(ends).tolist() for record in cluster.records]
