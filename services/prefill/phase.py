"""The prefill phase: claimed tasks are prefilled, handed over, and completed after the answer.

Comes in: choices from the queue, results of the engine, answers of gateways. Goes out: claims, prefill jobs,
`TaskStarted`, `HandoffOffer` and `TaskFailed`.
Invariant: a task that this worker claimed ends here in exactly one of: completed after its gateway's
answer, completed after a failure that its gateway was told, lost to another. Its blocks are
pulled, released, or end with their lease.
Not here: when the queue is looked at (`services.prefill.lookout`), which task to take
(`services.prefill.ordering`), decode (`services.decode`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Set
from dataclasses import replace

from services.bus.port import Bus
from services.domain.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    EngineFailed,
    ServingError,
)
from services.domain.handoff import Handoff, Ticket
from services.domain.ids import GatewayId, RequestId, TaskId, WorkerId
from services.domain.link import HandoffAnswer, HandoffOffer, TaskFailed, TaskStarted
from services.domain.performance import PrefillChunk
from services.domain.stream import Delta, FinishReason
from services.domain.task import QueuedTask
from services.engine.port import Engine, EngineInfo, Prefilled, PrefillJob
from services.link.port import GatewayLink
from services.prefill.claims import Claims
from services.prefill.job import Job
from services.prefill.lookout import Lookout
from services.prefill.ordering import Claimant, Take
from services.prefill.room import has_room
from services.prefill.settings import PrefillSettings
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)


class PrefillPhase:
    """All tasks that this worker holds."""

    def __init__(
        self,
        engine: Engine,
        info: EngineInfo,
        bus: Bus,
        settings: PrefillSettings,
        *,
        worker_id: WorkerId,
        links: dict[GatewayId, GatewayLink],
        claimant: Callable[[], Claimant],
        clock: Clock,
        doubt_s: Callable[[], float],
        meters: Meters,
    ) -> None:
        self._engine = engine
        self._info = info
        self._settings = settings
        self._worker_id = worker_id
        self._claims = Claims(bus, worker_id, clock, meters)
        self._links = links
        self._clock = clock
        self._doubt_s = doubt_s
        self._meters = meters
        self._jobs: dict[RequestId, Job] = {}
        self._nursery = Nursery("prefill")
        self._lookout = Lookout(
            bus, self._claims, self, links=links, claimant=claimant, nursery=self._nursery
        )
        self._stepped_s = clock.now_s()

    def __len__(self) -> int:
        return len(self._jobs)

    def open(self) -> None:
        """Claim tasks again; at first a phase does."""
        self._lookout.open()

    def begin_drain(self) -> None:
        """Claim nothing from now on; what was claimed goes on."""
        self._lookout.shut()

    async def close(self) -> None:
        """Stop claiming and renewing; idempotent. Jobs still held are given back by their claims' end."""
        self._lookout.shut()
        await self._nursery.close()

    async def run(self) -> None:
        """Claim tasks whenever open, until cancelled."""
        self._nursery.start(self._renew(), "renew")
        await self._lookout.run()

    def has_room(self) -> bool:
        """Whether another task should be claimed."""
        limits = self._info.limits
        return has_room(
            [job.uncached_tokens for job in self._jobs.values() if job.offered is None],
            step_tokens_max=limits.step_tokens_max,
            sequences_max=limits.sequences_max,
        )

    def at_work(self) -> Set[TaskId]:
        """Name the tasks that this worker has, whatever the queue says of their claims."""
        return {job.task_id for job in self._jobs.values()}

    async def drop(self, queued: QueuedTask, deadline: DeadlineUnmeetable) -> None:
        """Take a hopeless task out of the queue and tell its gateway."""
        job = await self._claims.claim(queued)
        if job is not None:
            self._fail(job, deadline)

    async def take(self, taken: Take) -> None:
        """Claim a task and begin it."""
        job = await self._claims.claim(taken.queued, taken.overlap_tokens)
        if job is None:
            return
        claimed, request = job.claimed, job.claimed.task.request
        self._meters.observe("baton_queue_wait_seconds", claimed.waited_s)
        if claimed.claim.attempt > self._settings.attempts_max:
            self._fail(
                job,
                EngineFailed(
                    message=f"prefill failed {self._settings.attempts_max} times", worker_id=self._worker_id
                ),
            )
            return
        self._jobs[request.request_id] = job
        deadline_s = claimed.task.record.deadline_s
        if deadline_s is not None:
            job.timer = asyncio.get_running_loop().call_later(
                deadline_s - claimed.waited_s, self._expire, request.request_id
            )
        self._tell(
            job,
            TaskStarted(
                task_id=job.task_id,
                request_id=request.request_id,
                attempt=claimed.claim.attempt,
                waited_s=claimed.waited_s,
            ),
        )
        self._engine.submit(PrefillJob(request=request))

    def stepped(self) -> None:
        """The engine ended a step: what it was given until now is begun."""
        self._stepped_s = self._clock.now_s()

    def beginning(self) -> list[PrefillChunk]:
        """List what begins with the engine's next step: claimed, and given to it during the one at work."""
        return [
            job.chunk
            for job in self._jobs.values()
            if job.offered is None and job.started_s >= self._stepped_s
        ]

    def finished(self, result: Prefilled) -> None:
        """The engine ended a prefill job of this phase."""
        job = self._jobs.get(result.request_id)
        self._lookout.wake()
        if job is None:
            if result.ticket is not None:
                self._engine.release(result.ticket.ticket_id)
            return
        if result.first.finish in (FinishReason.ERROR, FinishReason.ABORTED):
            del self._jobs[result.request_id]
            job.disarm()
            aborted = EngineFailed(message="prefill was aborted", worker_id=self._worker_id)
            self._fail(job, result.first.error or aborted)
            return
        self._offer(job, result)

    def _offer(self, job: Job, result: Prefilled) -> None:
        prefill_s = self._clock.now_s() - job.started_s
        self._meters.observe("baton_prefill_seconds", prefill_s)
        handoff = Handoff(
            task_id=job.task_id,
            request_id=result.request_id,
            worker_id=self._worker_id,
            ticket=self._aged(result.ticket),
            first=result.first,
            first_is_exact=not job.claimed.task.request.sampling.state_starts_at_prompt,
            waited_s=job.claimed.waited_s,
            prefill_s=prefill_s,
        )
        job.offered = result
        job.disarm()
        job.timer = asyncio.get_running_loop().call_later(
            self._settings.answer_timeout_s, self._unanswered, result.request_id
        )
        if not self._tell(job, HandoffOffer(handoff=handoff)):
            self._close_job(job, outcome="unanswered", release=True)  # it went nowhere: nobody can read them

    def _aged(self, ticket: Ticket | None) -> Ticket | None:
        """Take off a lease what may have passed between its grant and now."""
        if ticket is None:
            return None
        return replace(ticket, lease_s=max(0.0, ticket.lease_s - self._doubt_s()))

    def _expire(self, request_id: RequestId) -> None:
        """Stop a prefill whose deadline passed; its gateway need not be asked."""
        job = self._jobs.get(request_id)
        deadline_s = None if job is None else job.claimed.task.record.deadline_s
        if job is None or job.offered is not None or deadline_s is None:
            return
        self._stop(job)
        message = f"the deadline passed {deadline_s:.3f} s after the task was queued, during its prefill"
        self._fail(job, DeadlineExceeded(message=message, deadline_s=deadline_s))

    def answered(self, answer: HandoffAnswer) -> None:
        """A gateway said what became of a handoff."""
        job = self._jobs.get(answer.request_id)
        if job is None and answer.ticket_id is not None and not answer.pulled:
            self._engine.release(answer.ticket_id)  # late, but nobody reads the blocks
        if job is None or job.offered is None:
            return
        outcome = "refused" if not answer.taken else "taken" if answer.pulled else "finished"
        self._close_job(job, outcome=outcome, release=not answer.pulled)

    def _unanswered(self, request_id: RequestId) -> None:
        """No answer came: a decode worker may be reading all the same, so the lease runs to its end."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._close_job(job, outcome="unanswered", release=False)

    def _close_job(self, job: Job, *, outcome: str, release: bool) -> None:
        del self._jobs[job.request_id]
        job.disarm()
        self._meters.count("baton_handoffs_total", outcome=outcome)
        if job.offered is not None and job.offered.ticket is not None:
            if release:
                self._engine.release(job.offered.ticket.ticket_id)
            elif outcome == "taken":
                self._meters.count("baton_handoff_bytes_total", job.offered.ticket.kv_bytes)
        self._later(self._claims.complete(job), "complete")

    def gateway_gone(self, gateway_id: GatewayId) -> None:
        """Nobody waits for these tasks any more; blocks on offer may be read, their leases run to the end."""
        for job in [j for j in self._jobs.values() if j.gateway_id == gateway_id]:
            if job.offered is None:
                self._stop(job)
                self._later(self._claims.complete(job), "complete")
            else:
                self._close_job(job, outcome="unanswered", release=False)

    def removed(self, task_id: TaskId) -> None:
        """A task left the queue: when it was not this phase that completed it, it was cancelled."""
        for job in [j for j in self._jobs.values() if j.task_id == task_id and j.offered is None]:
            self._stop(job)

    def cancel(self, request_id: RequestId) -> None:
        """A gateway gave up a request that is being prefilled here."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._stop(job)
            self._later(self._claims.complete(job), "complete")

    def _stop(self, job: Job) -> None:
        self._jobs.pop(job.request_id, None)
        job.disarm()
        if job.offered is None:
            self._engine.abort(job.request_id)
        elif job.offered.ticket is not None:
            self._engine.release(job.offered.ticket.ticket_id)

    def _fail(self, job: Job, error: ServingError) -> None:
        final = Delta(request_id=job.request_id, finish=FinishReason.ERROR, error=error)
        self._tell(job, TaskFailed(task_id=job.task_id, request_id=job.request_id, final=final))
        self._later(self._claims.complete(job), "complete")

    def _tell(self, job: Job, message: TaskStarted | HandoffOffer | TaskFailed) -> bool:
        link = self._links.get(job.gateway_id)
        return link is not None and link.send(message)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.renew_s)
            for job in list(self._jobs.values()):
                await self._renew_one(job)

    async def _renew_one(self, job: Job) -> None:
        holds = await self._claims.renew(job, is_held=lambda: self._has(job))
        if not holds and job.offered is None and self._has(job):
            self._meters.count("baton_queue_claims_total", outcome="expired")
            self._stop(job)

    def _has(self, job: Job) -> bool:
        return self._jobs.get(job.request_id) is job

    def _later(self, work: Coroutine[None, None, None], name: str) -> None:
        try:
            self._nursery.start(work, name)
        except RuntimeError:
            log.debug("%s after close: the claim ends by itself", name)
