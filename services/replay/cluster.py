"""Many workers, the links between them, and a policy that decides: a discrete-event simulation.

Comes in: a trace, an engine, a policy. Goes out: a record per request, the step times of every worker.
Events of one moment come in a fixed order: ends of steps, transfers, arrivals, dispatch, then new steps;
so a step that begins at a moment sees all that arrived by then.
Invariants: every request ends once or is refused; at the end no worker holds a block; the same inputs give
the same run. Not here: what an engine does in a step (`worker`), how long KV moves (`transfers`).
"""

from array import array
from collections.abc import Callable
from enum import IntEnum
from heapq import heappop, heappush

from services.domain.errors import InternalFault
from services.replay.fleet import LateFleet, PresentFleet
from services.replay.policy import FirstToken, Fleet, Policy, Way
from services.replay.presets import EngineTiming
from services.replay.records import Record
from services.replay.sequence import Job, Sequence
from services.replay.trace import Trace, TracedRequest, kv_blocks
from services.replay.transfers import Fetch, Handoff, Links
from services.replay.worker import RUN_STEPS_MAX, Delivery, Worker


class _Kind(IntEnum):
    STEP_END = 0
    HANDOFF_END = 1
    FETCH_END = 2
    ARRIVAL = 3
    STATUS = 4
    DISPATCH = 5
    PLAN = 6


class Cluster:
    """Replays one trace once."""

    def __init__(
        self,
        trace: Trace,
        timing: EngineTiming,
        *,
        worker_count: int,
        policy: Callable[[Fleet], Policy],
        itl_slo_s: float,
        status_delay_s: float = 0.0,
        event_delay_s: float = 0.0,
        run_steps_max: int = RUN_STEPS_MAX,
    ) -> None:
        """Make a cluster of idle workers.

        Args:
            trace: what arrives.
            timing: every worker's engine.
            worker_count: workers.
            policy: makes the policy for the fleet it is to see.
            itl_slo_s: longest gap aimed at; a just-in-time first token waits by it.
            status_delay_s: time between two statuses of a worker; 0: the policy sees the present.
            event_delay_s: how late cache events arrive; 0 with no status delay: at once.
            run_steps_max: steps a worker computes ahead at most; 1 walks step by step.
        """
        self.trace = trace
        self.timing = timing
        self.workers = [Worker(i, timing, run_steps_max=run_steps_max) for i in range(worker_count)]
        self.records = [
            Record(
                arrival_s=request.arrival_s,
                prompt_tokens=request.prompt_tokens,
                output_tokens=request.output_tokens,
            )
            for request in trace.requests
        ]
        self.queue_times_s, self.queue_counts = array("d"), array("l")
        """How many requests had no computed prompt, after each change."""
        self.now_s = 0.0
        self.arrived_count = self.ended_count = self.refused_count = 0
        self._fleet = PresentFleet(self.workers, timing)
        self._status_delay_s = status_delay_s
        is_late = status_delay_s > 0 or event_delay_s > 0
        self._late = LateFleet(self._fleet, self.workers, event_delay_s) if is_late else None
        self._policy = policy(self._late or self._fleet)
        self._links = Links(worker_count, timing, self._policy.mechanisms)
        self._itl_slo_s = itl_slo_s
        self._handoffs: dict[int, Handoff] = {}
        self._fetches: dict[int, Fetch] = {}
        self._ways: dict[int, Way] = {}
        self._events: list[tuple[float, int, int, int]] = []
        self._planned = [False] * worker_count
        self._wake_s = float("inf")
        self._unprefilled = 0

    # ------------------------------------------------------------------ the loop

    def run(self, progress: Callable[["Cluster"], None] | None = None, *, every: int = 200) -> None:
        """Replay the whole trace.

        Args:
            progress: called after so many arrivals.
            every: arrivals between two calls.

        Raises:
            InternalFault: requests are left and nothing can happen any more: the policy keeps or blocks them.
        """
        handlers = {
            _Kind.STEP_END: self._on_step_end,
            _Kind.HANDOFF_END: self._on_handoff_end,
            _Kind.FETCH_END: self._on_fetch_end,
            _Kind.ARRIVAL: self._on_arrival,
            _Kind.STATUS: self._on_status,
            _Kind.DISPATCH: self._on_dispatch,
            _Kind.PLAN: self._on_plan,
        }
        events, total = self._events, len(self.records)
        if self.records:
            self._push(self.records[0].arrival_s, _Kind.ARRIVAL, 0)
        if self._late is not None and self._status_delay_s > 0:
            self._push(0.0, _Kind.STATUS, 0)
        shown = 0
        while self.ended_count + self.refused_count < total:
            if not events or (len(events) == 1 and events[0][1] == _Kind.STATUS):
                left = total - self.ended_count - self.refused_count
                raise InternalFault(message=f"{left} requests wait for ever at {self.now_s:.3f} s")
            self.now_s, kind, key, extra = heappop(events)
            self._fleet.now_s = self.now_s
            handlers[_Kind(kind)](key, extra)
            if progress is not None and self.arrived_count >= shown + every:
                shown = self.arrived_count
                progress(self)

    def _push(self, at_s: float, kind: _Kind, key: int, extra: int = 0) -> None:
        heappush(self._events, (at_s, kind, key, extra))

    # ------------------------------------------------------------------ events

    def _on_arrival(self, index: int, _extra: int) -> None:
        self.arrived_count += 1
        if index + 1 < len(self.records):
            self._push(self.records[index + 1].arrival_s, _Kind.ARRIVAL, index + 1)
        request = self.trace.requests[index]
        job = self._job(index, request)
        size = self.timing.block_size_tokens
        if -(-(request.prompt_tokens + request.output_tokens) // size) > self.timing.kv_blocks:
            self.records[index].refused = True
            self.refused_count += 1
            return
        self._note_queue(1)
        way = self._policy.arrive(job, self.now_s)
        if way is not None:
            self._start(job, way)
        elif self._policy.held_count:
            self._push(self.now_s, _Kind.DISPATCH, 0)
        self._set_timer()

    def _job(self, index: int, request: TracedRequest) -> Job:
        names = kv_blocks(
            request,
            trace_block_tokens=self.trace.trace_block_tokens,
            block_size_tokens=self.timing.block_size_tokens,
        )
        return Job(
            index=index,
            arrival_s=request.arrival_s,
            prompt_tokens=request.prompt_tokens,
            block_names=names,
        )

    def _on_dispatch(self, _key: int, _extra: int) -> None:
        if self._wake_s <= self.now_s:
            self._wake_s = float("inf")
        self._dispatch()

    def _dispatch(self) -> None:
        if self._policy.held_count:
            for job, way in self._policy.dispatch(self.now_s):
                self._start(job, way)
            self._set_timer()

    def _set_timer(self) -> None:
        wake_s = self._policy.wake_s()
        if wake_s is not None and wake_s < self._wake_s:
            self._wake_s = max(wake_s, self.now_s)
            self._push(self._wake_s, _Kind.DISPATCH, 0)

    def _on_status(self, _key: int, _extra: int) -> None:
        if self._late is not None:
            self._late.note_status()
            self._push(self.now_s + self._status_delay_s, _Kind.STATUS, 0)

    def _on_plan(self, index: int, _extra: int) -> None:
        self._dispatch()
        self._planned[index] = False
        worker = self.workers[index]
        end_s, pulls = worker.plan(self.now_s)
        for sequence in pulls:
            self._reserved(worker, sequence)
        if end_s is not None:
            self._push(end_s, _Kind.STEP_END, index, worker.cuts)
        if self._late is not None:
            self._late.note_events(index)

    def _on_step_end(self, index: int, cuts: int) -> None:
        worker = self.workers[index]
        if cuts != worker.cuts:
            return
        self._deliver(worker, worker.deliver())
        self._touch(worker)
        if self._late is not None:
            self._late.note_events(index)

    def _touch(self, worker: Worker) -> None:
        """Let a worker plan as soon as it can: something of it changed."""
        if self._planned[worker.index]:
            return
        if worker.stepping:
            end_s = worker.interrupt(self.now_s)
            if end_s is not None:
                self._push(end_s, _Kind.STEP_END, worker.index, worker.cuts)
        else:
            self._planned[worker.index] = True
            self._push(self.now_s, _Kind.PLAN, worker.index)

    # ------------------------------------------------------------------ a request's life

    def _start(self, job: Job, way: Way) -> None:
        """Send a job on its way."""
        record, mechanisms = self.records[job.index], self._policy.mechanisms
        record.prefill_worker = way.prefill
        target = way.decode
        if target is None and mechanisms.streams_kv:
            target = self._policy.decode_worker(job, way.prefill, self.now_s)
        stays = target == way.prefill
        fetches = way.fetch_from is not None and way.fetch_from != way.prefill and way.fetch_blocks > 0
        sequence = Sequence(
            job=job,
            target_tokens=record.output_tokens if stays else 1,
            hands_over=not stays,
            streams=mechanisms.streams_kv and not stays,
            pulls=fetches,
        )
        if fetches and way.fetch_from is not None:
            self._fetches[job.index] = Fetch(
                source=way.fetch_from, wanted_blocks=way.fetch_blocks, puller=way.prefill, sequence=sequence
            )
        if not stays:
            self._ways[job.index] = way
            if target is not None and mechanisms.streams_kv:
                self._hand_over(sequence, way.prefill, target)
        self._submit(way.prefill, sequence)

    def _submit(self, index: int, sequence: Sequence) -> None:
        worker = self.workers[index]
        worker.submit(sequence)
        self._touch(worker)

    def _hand_over(self, prefill: Sequence, source: int, target: int) -> Handoff:
        """Ask the decode worker for room."""
        job, record = prefill.job, self.records[prefill.job.index]
        spoke = self._policy.mechanisms.first_token is not FirstToken.DECODE
        decode = Sequence(
            job=job, target_tokens=record.output_tokens, emitted_tokens=1 if spoke else 0, pulls=True
        )
        handoff = Handoff(source=source, target=target, prefill=prefill, decode=decode)
        self._handoffs[job.index] = handoff
        if record.output_tokens > decode.emitted_tokens:
            self._submit(target, decode)
        return handoff

    def _deliver(self, worker: Worker, delivery: Delivery) -> None:
        for sequence in delivery.first:
            index = sequence.job.index
            if index not in self._handoffs or sequence is not self._handoffs[index].decode:
                self._prefilled(sequence)
        for sequence in delivery.chunked:
            handoff = self._handoffs.get(sequence.job.index)
            if handoff is not None and not handoff.prefilled:
                self._send(handoff)
        for sequence in delivery.prefilled:
            self._leave_prefill(worker, sequence)
        for sequence in delivery.ended:
            self._end(worker.index, sequence)

    def _prefilled(self, sequence: Sequence) -> None:
        record = self.records[sequence.job.index]
        record.cached_tokens = sequence.cached_tokens or 0
        record.prefilled_s = self.now_s
        self._note_queue(-1)
        self._policy.spoke(sequence.job, self.now_s)

    def _leave_prefill(self, worker: Worker, sequence: Sequence) -> None:
        """A prompt that is to be handed over is computed: where to?"""
        job = sequence.job
        record, way = self.records[job.index], self._ways.pop(job.index)
        first = self._policy.mechanisms.first_token
        if record.output_tokens == 1 and first is not FirstToken.DECODE:
            self._handoffs.pop(job.index, None)
            worker.release(sequence)
            record.first_s = self.now_s
            self._end(worker.index, sequence)
            return
        handoff = self._handoffs.get(job.index)
        if handoff is None:
            target = way.decode
            if target is None:
                target = self._policy.decode_worker(job, worker.index, self.now_s)
            if target == worker.index:
                if worker.keep(sequence, record.output_tokens):
                    self._end(worker.index, sequence)
                return
            handoff = self._hand_over(sequence, worker.index, target)
        handoff.prefilled = True
        self._send(handoff)
        if first is not FirstToken.DECODE:
            record.first_s = self.now_s
        if first is FirstToken.JUST_IN_TIME:
            record.first_s = max(self.now_s, self._expected_second_s(handoff) - self._itl_slo_s)

    def _expected_second_s(self, handoff: Handoff) -> float:
        """Predict the second token: the KV is there, half a step later its step begins."""
        state = self._fleet.state(handoff.target)
        tokens = handoff.prefill.job.prompt_tokens + 1
        step_s = self.timing.performance.decode_s(
            sequence_count=state.decode_count + 1, context_tokens=state.decode_context_tokens + tokens
        )
        waits_s = 0.5 * step_s if state.decode_count else 0.0
        return self._links.expected_end_s(handoff, self.now_s) + waits_s + step_s

    def _reserved(self, worker: Worker, sequence: Sequence) -> None:
        """A worker has room for what a sequence pulls."""
        index = sequence.job.index
        fetch = self._fetches.get(index)
        if fetch is not None and fetch.sequence is sequence:
            source = self.workers[fetch.source]
            source.settle(self.now_s)
            self._touch(source)
            fetch.pinned_blocks = source.cache.pin(sequence.names, fetch.wanted_blocks)
            moved = max(0, fetch.pinned_blocks - sequence.shared_blocks) * self.timing.block_bytes
            self.records[index].moved_bytes += moved
            end_s = self._links.move(worker.index, moved, self.now_s) if moved else self.now_s
            self._push(end_s, _Kind.FETCH_END, index)
            return
        handoff = self._handoffs[index]
        self._links.reserve(handoff)
        self._send(handoff)

    def _send(self, handoff: Handoff) -> None:
        end_s = self._links.send(handoff, self.now_s)
        if end_s is not None:
            self._push(end_s, _Kind.HANDOFF_END, handoff.prefill.job.index)

    def _on_handoff_end(self, index: int, _extra: int) -> None:
        handoff = self._handoffs[index]
        self.records[index].moved_bytes += handoff.moved_bytes
        source, target = self.workers[handoff.source], self.workers[handoff.target]
        source.release(handoff.prefill)
        if source.batch.waiting:
            self._touch(source)
        target.arrive(handoff.decode, handoff.prefill.job.prompt_tokens)
        self._touch(target)

    def _on_fetch_end(self, index: int, _extra: int) -> None:
        fetch = self._fetches.pop(index)
        source, puller = self.workers[fetch.source], self.workers[fetch.puller]
        source.cache.release(fetch.sequence.names, fetch.pinned_blocks, 0)
        if source.batch.waiting:
            self._touch(source)
        blocks = max(fetch.pinned_blocks, fetch.sequence.shared_blocks)
        puller.arrive(fetch.sequence, blocks * self.timing.block_size_tokens)
        self._touch(puller)

    def _end(self, index: int, sequence: Sequence) -> None:
        record = self.records[sequence.job.index]
        record.decode_worker = index
        record.spans = sequence.spans
        record.ended_s = self.now_s
        self._handoffs.pop(sequence.job.index, None)
        self.ended_count += 1
        self._policy.ended(sequence.job, self.now_s)

    def _note_queue(self, change: int) -> None:
        self._unprefilled += change
        self.queue_times_s.append(self.now_s)
        self.queue_counts.append(self._unprefilled)
