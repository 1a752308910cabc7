"""The simulated engine: steps on the running loop's clock, on a virtual or a real one.

Comes in: jobs, aborts, releases; faults that a simulation injects. Goes out: what the engine port says.
One timer per step; durations are the performance model's. Invariant: as the port's.
Deviations that are meant: a ticket for too few blocks, or without a readable connector, kills the
engine, and one for another prompt taints what follows and the prefix cache (wrong tokens with a normal
finish): vLLM 0.32 does both, so that a missing check of tickets shows here too. A pull after the lease
ended fails with KvLost, which vLLM answers with wrong tokens or an error.
Not here: scheduling (`scheduler`), tokens (`oracle`), transfers between engines (`pulls`).
"""

import asyncio
from dataclasses import replace

from services.domain.blocks import BlockHash
from services.domain.errors import (
    EngineFailed,
    InternalFault,
    Saturated,
    ServingError,
)
from services.domain.ids import EngineEpoch, RequestId, TicketId, WorkerId
from services.domain.stream import Delta, FinishReason
from services.domain.worker import WorkerLoad
from services.engine.port import (
    DecodeJob,
    EngineInfo,
    KvSink,
    Prefilled,
    PrefillJob,
    StepSink,
)
from services.engine.simulated.fabric import Connector, Fabric
from services.engine.simulated.handoffs import HandoffDesk
from services.engine.simulated.leases import LeaseDesk
from services.engine.simulated.oracle import Continuation
from services.engine.simulated.outbox import Outbox
from services.engine.simulated.pool import BlockPool, Holding
from services.engine.simulated.pulls import PullEnd, PullRefused, Pulls
from services.engine.simulated.scheduler import Scheduler, StepPlan
from services.engine.simulated.sequence import Sequence, Stage, open_sequence, refusal
from services.engine.simulated.settings import SimulatedSettings
from services.engine.simulated.side_channel import SideChannel
from services.runtime.tasks import Nursery

_CATCH_UP_S = 0.05
"""How far a late step is made up for by shorter waits; keeps a busy process on the model's time."""


class SimulatedEngine:
    """An engine that invents its tokens."""

    def __init__(
        self,
        settings: SimulatedSettings,
        *,
        worker_id: WorkerId,
        fabric: Fabric | None = None,
    ) -> None:
        """Make an engine; `start` brings it up.

        Args:
            settings: what it pretends to be.
            worker_id: named in tickets and errors.
            fabric: shared by all engines of this process that hand over to each other; None gives one
                of its own.
        """
        self._settings = settings
        self._worker_id = worker_id
        self._fabric = fabric or Fabric()
        self._limits = settings.limits()
        self._performance = settings.effective_performance()
        self._vocabulary = settings.vocabulary()
        self._pool = BlockPool(settings.kv_blocks)
        self._scheduler = Scheduler(self._pool, self._limits)
        self._leases = LeaseDesk(self._pool, settings.lease_s, self._wake)
        self._handoffs = HandoffDesk(settings, worker_id=worker_id, leases=self._leases)
        self._side_channel = SideChannel(self._leases.end)
        self._pulls = Pulls(
            fabric=self._fabric,
            side_channel=self._side_channel,
            performance=self._performance,
            limits=self._limits,
        )
        self._jobs: dict[RequestId, Sequence] = {}
        self._epoch: EngineEpoch | None = None
        self._nursery = Nursery(f"simulated-engine:{worker_id}", self._on_bug)
        self._work = asyncio.Event()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._dead: str | None = "the engine was not started"
        self._arrivals = 0
        self._step_prompt_tokens = 0
        self._slowness = 1.0
        self._outbox = Outbox(self._pool, _unheard, _unheard)

    # ------------------------------------------------------------------ the port

    async def start(self, steps: StepSink, kv_events: KvSink) -> EngineInfo:
        """Begin stepping; see the port.

        Raises:
            EngineFailed: the side channel cannot listen.
        """
        if self._settings.start_s:
            await asyncio.sleep(self._settings.start_s)
        if self._settings.side_channel_host is not None:
            await self._side_channel.open(self._settings.side_channel_host, self._worker_id)
        self._outbox = Outbox(self._pool, steps, kv_events)
        self._epoch = self._fabric.join(self._leases)
        self._dead = None
        self._nursery.start(self._run(), "steps")
        return EngineInfo(
            epoch=self._epoch, kind="simulated", limits=self._limits, performance=self._performance
        )

    def submit(self, job: PrefillJob | DecodeJob) -> None:
        """Hand over a job; see the port.

        Raises:
            InternalFault: the request id is in use, or the engine never started.
        """
        request = job.request
        if self._epoch is None:
            raise InternalFault(message="the engine was not started")
        if request.request_id in self._jobs:
            raise InternalFault(message=f"request id {request.request_id!r} is in use")
        self._arrivals += 1
        sequence = open_sequence(
            job,
            continuation=Continuation(
                request,
                vocabulary=self._vocabulary,
                context_tokens_max=self._limits.context_tokens_max,
                emitted_token_ids=job.emitted_token_ids if isinstance(job, DecodeJob) else (),
            ),
            arrival=self._arrivals,
            now_s=self._now_s(),
        )
        self._jobs[request.request_id] = sequence
        error = self._objection(sequence)
        self._scheduler.add(sequence)
        if error is not None:
            self._end(sequence, FinishReason.ERROR, error)
        self._wake()

    def abort(self, request_id: RequestId) -> None:
        """Stop a job and free its blocks; see the port."""
        sequence = self._jobs.get(request_id)
        if sequence is not None:
            self._end(sequence, FinishReason.ABORTED)
            self._wake()

    def release(self, ticket_id: TicketId) -> None:
        """End a lease early; see the port."""
        self._leases.end(ticket_id)

    def load(self) -> WorkerLoad:
        """Read the counters."""
        decoding = [s for s in self._scheduler.running if s.spoke and s.remaining <= 1]
        decoding_tokens = sum(s.computed for s in decoding)
        missing = sum(s.remaining for s in self._jobs.values() if s.ticket is None and not s.spoke)
        return WorkerLoad(
            running_count=len(decoding),
            running_context_tokens=decoding_tokens,
            waiting_count=len(self._jobs) - len(decoding),
            waiting_prefill_tokens=missing + self._step_prompt_tokens,
            kv_used_blocks=self._pool.used_blocks,
            leased_blocks=self._leases.blocks,
        )

    async def check_health(self) -> None:
        """Ask whether the engine can still step.

        Raises:
            EngineFailed: it died, or did not answer within `health_timeout_s`; it is dead then.
        """
        if self._dead is None and not self._thawed.is_set():
            try:
                await asyncio.wait_for(self._thawed.wait(), self._settings.health_timeout_s)
            except TimeoutError:
                self._die(f"no answer within {self._settings.health_timeout_s} s")
        if self._dead is not None:
            raise self._failure()

    async def stop(self) -> None:
        """End all jobs as aborted, then the engine. Idempotent."""
        for sequence in list(self._jobs.values()):
            self._end(sequence, FinishReason.ABORTED)
        self.thaw()
        self._outbox.flush()
        self._leave("the engine was stopped")
        await self._nursery.close()

    # ------------------------------------------------------------------ faults, for simulations

    def crash(self) -> None:
        """Die now, as a killed engine process does: its jobs end in errors, its leases are lost."""
        self._die("the engine process died")

    def freeze(self) -> None:
        """Hang: no step ends, nothing is said, until `thaw` or a health check gives up."""
        if self._dead is None:
            self._thawed.clear()
            self._outbox.shut = True

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._thawed.set()
        self._outbox.shut = False
        self._outbox.flush_soon()

    def slow_down(self, factor: float) -> None:
        """Let every step from the next on take `factor` times the model's time; 1 is as predicted."""
        self._slowness = factor

    def job_ids(self) -> tuple[RequestId, ...]:
        """Jobs that have not ended, in the order of their arrival."""
        return tuple(self._jobs)

    def cached_blocks(self) -> frozenset[BlockHash]:
        """Hashes of all blocks that a new prompt could share."""
        return self._pool.cached

    def drop_cache(self) -> bool:
        """Forget all cached blocks; False, and no change, while any is in use."""
        dropped = self._pool.clear()
        self._outbox.flush_soon()
        return dropped

    def corrupt_next_pulls(self, count: int, *, place: int = -1) -> None:
        """Change one block of each of the next `count` pulls of this engine on its way.

        Args:
            count: pulls that move at least one block.
            place: which moved block: 0 is the first, -1 the last, modulo their number. What no fingerprint
                covers gives wrong tokens, as in a real engine; the last block is always covered.
        """
        self._pulls.corrupt_next(count, place)

    # ------------------------------------------------------------------ steps

    async def _run(self) -> None:
        clock_s = self._now_s()
        while self._dead is None:
            self._work.clear()
            plan = self._scheduler.plan()
            for sequence in plan.pulls:
                self._pull(sequence)
            self._step_prompt_tokens = sum(chunk.new_tokens for chunk in plan.chunks)
            if not plan.decode_count and not plan.chunks:
                if plan.preempted_count:
                    continue
                self._outbox.flush()
                await self._work.wait()
                clock_s = self._now_s()
                continue
            span, began_s = plan.span(self._performance), self._now_s()
            clock_s = max(clock_s, began_s - _CATCH_UP_S) + span.took_s * self._slowness
            await asyncio.sleep(max(0.0, clock_s - began_s))
            if not self._thawed.is_set():
                await self._thawed.wait()
                clock_s = self._now_s()
            self._outbox.computed(replace(span, took_s=self._now_s() - began_s))
            self._step_prompt_tokens = 0
            self._deliver(plan)
            self._outbox.flush()

    def _deliver(self, plan: StepPlan) -> None:
        now_s, deltas = self._now_s(), self._outbox.deltas
        for sequence in plan.complete:
            if sequence.stage is not Stage.RUNNING:
                continue
            output = sequence.continuation
            token = output.draw()
            finish = output.finish(token)
            is_first, sequence.spoke = not sequence.spoke, True
            cached_tokens = sequence.cached_tokens if is_first else None
            delta = Delta(
                request_id=sequence.request_id,
                token_ids=(token,),
                logprobs=output.logprobs(token),
                finish=finish,
                cached_tokens=cached_tokens,
                local_prefill_s=None if cached_tokens is None else now_s - sequence.submitted_s,
            )
            if sequence.is_prefill:
                self._hand_over(sequence, delta)
                continue
            sequence.tokens.append(token)
            deltas.append(delta)
            if finish is not None:
                self._pool.release(self._close(sequence))

    def _hand_over(self, sequence: Sequence, first: Delta) -> None:
        """Lease the blocks of a finished prompt, unless nothing is left to decode."""
        holding = self._close(sequence)
        if first.finish is not None:
            self._pool.release(holding)
            self._outbox.prefilled.append(Prefilled(request_id=sequence.request_id, first=first, ticket=None))
            return
        if self._epoch is None:
            raise InternalFault(message="a step ended before the engine started")
        connector = Connector(fabric=self._fabric.name, side_channel=self._side_channel.address)
        ticket = self._handoffs.lease(sequence, holding, epoch=self._epoch, connector=connector)
        self._outbox.prefilled.append(Prefilled(request_id=sequence.request_id, first=first, ticket=ticket))

    def _pull(self, sequence: Sequence) -> None:
        if sequence.stage is not Stage.PULLING:
            return
        refused = self._pulls.begin(sequence, lambda end: self._pulled(sequence, end))
        if refused is not None:
            self._refuse(sequence, refused)

    def _pulled(self, sequence: Sequence, end: PullEnd) -> None:
        if end.checked is not None:
            self._outbox.kv_checks.append(end.checked)
            self._outbox.flush_soon()
            if not end.checked.matched:
                self._pool.forget()  # whatever changed these blocks may have changed others unseen
        if end.error is not None:
            self._end(sequence, FinishReason.ERROR, end.error)
        else:
            sequence.continuation.taint(sequence.holding.tainted)
            self._scheduler.arrive(sequence)
        self._wake()

    def _refuse(self, sequence: Sequence, refused: PullRefused) -> None:
        if refused.fatal is not None:
            self._die(refused.fatal)
        else:
            self._end(sequence, FinishReason.ERROR, refused.error)

    # ------------------------------------------------------------------ endings

    def _objection(self, sequence: Sequence) -> ServingError | None:
        """Say why a new job cannot run."""
        if self._dead is not None:
            return self._failure()
        if len(self._jobs) > self._settings.jobs_max:
            return Saturated(message=f"{self._settings.jobs_max} jobs are in the engine", retry_after_s=1.0)
        impossible = refusal(sequence, self._limits)
        if impossible is not None:
            return impossible
        if sequence.ticket is not None:
            refused = self._pulls.reserve(sequence, self._now_s())
            return refused.error if refused is not None else None
        return None

    def _end(self, sequence: Sequence, finish: FinishReason, error: ServingError | None = None) -> None:
        """Give a job its final output outside of a step."""
        self._pulls.give_up(sequence, engine_lives=self._dead is None)
        self._pool.release(self._close(sequence))
        delta = Delta(request_id=sequence.request_id, finish=finish, error=error)
        if sequence.is_prefill:
            self._outbox.prefilled.append(Prefilled(request_id=sequence.request_id, first=delta, ticket=None))
        else:
            self._outbox.deltas.append(delta)
        self._outbox.flush_soon()

    def _close(self, sequence: Sequence) -> Holding:
        del self._jobs[sequence.request_id]
        return self._scheduler.remove(sequence)

    def _die(self, why: str) -> None:
        if self._dead is not None:
            return
        self._leave(why)
        for sequence in list(self._jobs.values()):
            self._end(sequence, FinishReason.ERROR, self._failure())
        self.thaw()

    def _leave(self, why: str) -> None:
        """Be dead for others: no epoch, no leases, no socket."""
        if self._dead is None:
            self._dead = why
        if self._epoch is not None:
            self._fabric.leave(self._epoch)
        self._leases.end_all()
        self._side_channel.close()
        self._wake()

    def _on_bug(self, error: BaseException) -> None:
        self._die(f"the engine failed: {error!r}")

    def _failure(self) -> EngineFailed:
        return EngineFailed(
            worker_id=self._worker_id,
            message=f"engine of {self._worker_id}: {self._dead}; restart the worker",
        )

    def _wake(self) -> None:
        self._work.set()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _unheard(_: object) -> None:
    """Stand in for the sinks until `start` brings them."""
