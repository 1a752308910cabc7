"""Many workers, the links between them, and a policy that decides: a discrete-event simulation.

Comes in: a trace, an engine, a policy. Goes out: a record per request, the step times of every worker.
Invariants: every request ends once or is refused; at the end no worker holds a block; the same inputs give
the same run. Not here: what an engine does in a step (`worker`), a request's way (`journeys`).
"""

from collections.abc import Callable

from services.domain.errors import InternalFault
from services.replay.agenda import Agenda, Happening
from services.replay.fleet import LateFleet, PresentFleet
from services.replay.journeys import Journeys
from services.replay.policy import Fleet, Policy, Refusal
from services.replay.presets import EngineTiming
from services.replay.records import Record
from services.replay.sequence import Job
from services.replay.traces import Trace, TracedRequest, kv_blocks
from services.replay.worker import RUN_STEPS_MAX, Worker

TOO_LONG = "too long for any worker"
"""Why a request is refused without asking the policy."""


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
            itl_slo_s: longest gap aimed at, also behind a just-in-time first token.
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
        self.arrived_count = self.refused_count = 0
        self._agenda = Agenda(worker_count)
        self._fleet = PresentFleet(self.workers, timing)
        self._status_delay_s = status_delay_s
        is_late = status_delay_s > 0 or event_delay_s > 0
        self._late = LateFleet(self._fleet, self.workers, event_delay_s) if is_late else None
        self._policy = policy(self._late or self._fleet)
        self.journeys = Journeys(
            self._agenda,
            self._fleet,
            self._policy,
            workers=self.workers,
            records=self.records,
            itl_slo_s=itl_slo_s,
        )
        self._wake_s = float("inf")

    @property
    def now_s(self) -> float:
        """Simulated time."""
        return self._agenda.now_s

    @property
    def ended_count(self) -> int:
        """Requests that have all their tokens."""
        return self.journeys.ended_count

    def resize(self, worker_count: int) -> None:
        """Let only the first so many workers get anything new; the others finish what they have.

        Args:
            worker_count: at least 1, at most those that the cluster was made with.
        """
        self._fleet.worker_count = worker_count

    def forward(self, duration_s: float) -> None:
        """Let time pass in which nothing happens, after a replay."""
        self._agenda.now_s += duration_s
        self._fleet.now_s = self._agenda.now_s

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
            Happening.STEP_END: self._on_step_end,
            Happening.HANDOFF_END: lambda key, _extra: self.journeys.end_handoff(key),
            Happening.FETCH_END: lambda key, _extra: self.journeys.end_fetch(key),
            Happening.MOVE_END: self._on_move_end,
            Happening.ARRIVAL: self._on_arrival,
            Happening.STATUS: self._on_status,
            Happening.DISPATCH: self._on_dispatch,
            Happening.PLAN: self._on_plan,
        }
        agenda, total = self._agenda, len(self.records)
        if self.records:
            self._agenda.note(self.records[0].arrival_s, Happening.ARRIVAL, 0)
        if self._late is not None and self._status_delay_s > 0:
            self._agenda.note(0.0, Happening.STATUS, 0)
        shown = 0
        while self.ended_count + self.refused_count < total:
            if agenda.is_over:
                left = total - self.ended_count - self.refused_count
                raise InternalFault(message=f"{left} requests wait for ever at {self.now_s:.3f} s")
            kind, key, extra = agenda.pop()
            self._fleet.now_s = agenda.now_s
            handlers[Happening(kind)](key, extra)
            if progress is not None and self.arrived_count >= shown + every:
                shown = self.arrived_count
                progress(self)

    # ------------------------------------------------------------------ events

    def _on_arrival(self, index: int, _extra: int) -> None:
        self.arrived_count += 1
        if index + 1 < len(self.records):
            self._agenda.note(self.records[index + 1].arrival_s, Happening.ARRIVAL, index + 1)
        request = self.trace.requests[index]
        job = self._job(index, request)
        size = self.timing.block_size_tokens
        if -(-(request.prompt_tokens + request.output_tokens) // size) > self.timing.kv_blocks:
            self._refuse(index, TOO_LONG)
            return
        way = self._policy.arrive(job, self.now_s)
        if isinstance(way, Refusal):
            self._refuse(index, way.reason)
            return
        self.journeys.note_queue(1)
        if way is not None:
            self.journeys.start(job, way)
        elif self._policy.held_count:
            self._agenda.note(self.now_s, Happening.DISPATCH, 0)
        self._set_timer()

    def _refuse(self, index: int, reason: str) -> None:
        self.records[index].refused = reason
        self.refused_count += 1

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
                self.journeys.start(job, way)
            self._set_timer()

    def _set_timer(self) -> None:
        wake_s = self._policy.wake_s()
        if wake_s is not None and wake_s < self._wake_s:
            self._wake_s = max(wake_s, self.now_s)
            self._agenda.note(self._wake_s, Happening.DISPATCH, 0)

    def _on_move_end(self, index: int, number: int) -> None:
        if self.journeys.moves is not None:
            self.journeys.moves.copied(index, number)

    def _on_status(self, _key: int, _extra: int) -> None:
        if self._late is not None:
            self._late.note_status()
            self._agenda.note(self.now_s + self._status_delay_s, Happening.STATUS, 0)

    def _on_plan(self, index: int, _extra: int) -> None:
        worker = self.workers[index]
        if self._agenda.has_news(worker):
            self._dispatch()
        self._agenda.plans(worker)
        end_s, pulls = worker.plan(self.now_s)
        for sequence in pulls:
            self.journeys.reserved(worker, sequence)
        if end_s is not None:
            self._agenda.note(end_s, Happening.STEP_END, index, worker.cuts)
        if self._late is not None:
            self._late.note_events(index)

    def _on_step_end(self, index: int, cuts: int) -> None:
        worker = self.workers[index]
        if cuts != worker.cuts:
            return
        delivery = worker.deliver()
        self.journeys.deliver(worker, delivery)
        if delivery.is_empty:
            self._agenda.go_on(worker)
        else:
            self._agenda.touch(worker)
        if self._late is not None:
            self._late.note_events(index)
