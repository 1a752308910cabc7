"""The vLLM engine behind the engine port: an in-process `AsyncLLM` fed with token ids.

Comes in: jobs, aborts, releases. Goes out: one `EngineStep` per engine step, KV events, load.
Invariant: every submitted job ends in exactly one final output, also when it is aborted, refused by vLLM
or the engine dies. Requests reach the engine in the order in which they were submitted and aborted, so an
abort never overtakes its request (it would free nothing).
A pair of engines shakes hands at its first pull (105 to 245 ms, then 8 to 14 ms): whoever knows both
workers warms a pair with one throw-away prefill and decode; the engine itself knows no peers.
Not here: vLLM's words (`session`, `boot`, `sampling`, `ticket`), what runs in the engine process
(`connector`, `extension`), the check of a ticket's age and single use (`services.decode`).
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from services.domain.errors import (
    ConfigurationInvalid,
    EngineFailed,
    InternalFault,
    Saturated,
    ServingError,
    TicketInvalid,
)
from services.domain.ids import EngineEpoch, RequestId, TicketId, WorkerId
from services.domain.integrity import KvChecked
from services.domain.pace import StepSpan
from services.domain.stream import Delta, FinishReason
from services.domain.worker import WorkerLoad
from services.engine.port import (
    DecodeJob,
    EngineInfo,
    EngineStep,
    KvPulled,
    KvSink,
    Prefilled,
    PrefillJob,
    StepSink,
)
from services.engine.vllm import environment
from services.engine.vllm.jobs import RunningJob, read_check, read_output
from services.engine.vllm.leases import KeptLease, LeaseBook
from services.engine.vllm.plan import EnginePlan, plan_job
from services.engine.vllm.settings import VllmSettings
from services.engine.vllm.spans import SpanMeter
from services.engine.vllm.ticket import issue_ticket
from services.runtime.tasks import Nursery, first_of

if TYPE_CHECKING:
    from services.engine.vllm.session import Session, SessionFacts
    from services.engine.vllm.steps import Outcome, StepGatherer

log = logging.getLogger(__name__)

_UNNAMED = WorkerId("engine")
_LEASE_LOOK_S = 0.25
"""How often the engine is asked which leases it still holds, while there are any."""
_RETRY_AFTER_S = 1.0
"""Told to a job that finds the engine's book full: a few of its jobs end every second."""


class VllmEngine:
    """One vLLM engine; see `services.engine.port.Engine` for the contract."""

    def __init__(self, settings: VllmSettings, *, worker_id: WorkerId = _UNNAMED) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._epoch = EngineEpoch("")
        self._jobs: dict[RequestId, RunningJob] = {}
        self._leases = LeaseBook()
        self._lease_opened = asyncio.Event()
        self._finals: list[Delta | Prefilled] = []
        self._kv_checks: list[KvChecked] = []
        self._span: StepSpan | None = None
        self._meter = SpanMeter(settings.performance_model(), step_tokens_max=settings.step_tokens_max)
        self._steps: StepSink | None = None
        self._gatherer: StepGatherer | None = None
        self._session: Session | None = None
        self._facts: SessionFacts | None = None
        self._failure: EngineFailed | None = None
        self._failed = asyncio.Event()
        self._last_sign_s = 0.0
        self._nursery = Nursery("vllm-engine", on_failure=self._fail)
        self._stopped = False

    @property
    def engine_pid(self) -> int | None:
        """Process in which the model runs; None before the start."""
        return self._facts.engine_pid if self._facts is not None else None

    async def start(self, steps: StepSink, kv_events: KvSink) -> EngineInfo:
        """Load the model and begin stepping.

        Raises:
            EngineFailed: the engine did not come up; the message says what to do.
            ConfigurationInvalid: a setting cannot be.
        """
        settings = self._settings
        environment.prepare(settings)
        from services.engine.vllm.session import Session  # imports vllm: only now, after its environment
        from services.engine.vllm.steps import StepGatherer

        self._steps = steps
        self._gatherer = StepGatherer(on_step=self._take_step, on_error=self._fail)
        try:
            async with asyncio.timeout(settings.boot_timeout_s):
                self._session = await Session.open(settings, gatherer=self._gatherer)
                self._facts = await self._session.settle(kv_events)
        except ConfigurationInvalid:
            raise
        except Exception as failure:  # whatever stops vLLM from starting is one outcome here
            await self.stop()
            raise EngineFailed(
                message=f"vLLM did not start with {settings.model}: {failure!r}; its own log says more "
                "(log_level: INFO)",
                worker_id=self._worker_id,
            ) from failure
        self._epoch = EngineEpoch(uuid.uuid4().hex[:16])
        self._last_sign_s = self._now_s()
        self._nursery.start(self._session.drive(), "commands")
        self._nursery.start(self._watch_leases(self._session), "leases")
        return EngineInfo(
            epoch=self._epoch,
            kind="vllm",
            limits=self._facts.limits,
            performance=settings.performance_model(),
        )

    def submit(self, job: PrefillJob | DecodeJob) -> None:
        """Hand over a job; its outputs come through the step sink.

        A seed restarts with each engine request: a decode job with emitted tokens and a seed, penalties
        or a grammar is not exact (`Sampling.state_starts_at_prompt`); callers avoid it.

        Raises:
            InternalFault: the request id is in use, or the engine was not started.
        """
        request_id = job.request.request_id
        if request_id in self._jobs:
            raise InternalFault(message=f"request {request_id} was submitted twice")
        if self._facts is None or self._gatherer is None:
            raise InternalFault(message="a job was submitted to an engine that was not started")
        if self._session is None or self._failure is not None or self._stopped:
            self._refuse(job, self._failure or self._died("the engine was stopped"))
            return
        if len(self._jobs) >= self._settings.jobs_max:
            message = f"the engine holds {len(self._jobs)} jobs, its limit"
            self._refuse(job, Saturated(message=message, retry_after_s=_RETRY_AFTER_S))
            return
        planned = plan_job(job, settings=self._settings, facts=self._facts)
        if isinstance(planned, ServingError):
            self._refuse(job, planned)
            return
        self._launch(job, planned, self._session, self._facts, self._gatherer)

    def _launch(
        self,
        job: PrefillJob | DecodeJob,
        plan: EnginePlan,
        session: "Session",
        facts: "SessionFacts",
        gatherer: "StepGatherer",
    ) -> None:
        request = job.request
        prepared = session.prepare(request, plan, eos_token_ids=facts.eos_token_ids)
        if isinstance(prepared, ServingError):
            self._refuse(job, prepared)
            return
        running = RunningJob(
            job=job,
            engine_request_id=prepared.request_id,
            submitted_s=self._now_s(),
            prompt_tokens=len(plan.prompt_token_ids),
            keeps_blocks=plan.keeps_blocks,
        )
        if not self._jobs:
            self._last_sign_s = running.submitted_s
        self._jobs[request.request_id] = running
        self._meter.submitted(running)
        session.send(prepared, gatherer.collector(running))

    def abort(self, request_id: RequestId) -> None:
        """Stop a job and free its blocks; its final output is `aborted`. Unknown ids are ignored.

        A decode job that was aborted before its pull also frees the blocks of its ticket.
        """
        running = self._jobs.pop(request_id, None)
        if running is None or self._session is None:
            return
        running.ended = True
        self._meter.void()
        self._session.abort(running.engine_request_id)
        if running.keeps_blocks:
            # The engine may have finished it already, its lease being on the way to us.
            self._session.release([running.engine_request_id])
        self._finish(running.job, FinishReason.ABORTED, None)

    def release(self, ticket_id: TicketId) -> None:
        """End a lease early because nobody will pull. Unknown ids are ignored."""
        lease = self._leases.end(ticket_id)
        if lease is not None and self._session is not None and self._failure is None:
            self._session.release([lease.engine_request_id])

    def load(self) -> WorkerLoad:
        """Read the counters; no I/O.

        KV use is the engine's own figure of its last step while jobs run (a shared prefix counts once),
        and the book of leases while it is idle: an idle engine reports nothing.
        """
        if self._facts is None or self._gatherer is None:
            return WorkerLoad()
        decoding = [
            job for job in self._jobs.values() if job.output_tokens > 0 and isinstance(job.job, DecodeJob)
        ]
        waiting = [job for job in self._jobs.values() if job.output_tokens == 0]
        leased = min(self._leases.block_count, self._facts.limits.kv_blocks)
        used = round(self._gatherer.kv_usage_frac * self._facts.limits.kv_blocks) if self._jobs else leased
        return WorkerLoad(
            running_count=len(decoding),
            running_context_tokens=sum(job.prompt_tokens + job.output_tokens for job in decoding),
            waiting_count=len(waiting),
            waiting_prefill_tokens=sum(job.prompt_tokens for job in waiting if job.computes_prompt),
            kv_used_blocks=max(used, leased),
            leased_blocks=leased,
        )

    async def check_health(self) -> None:
        """Ask the engine itself whether it can still step.

        Its process must live, its loop must answer between two steps, and it must not sit on work without
        any output for `health_timeout_s`.

        Raises:
            EngineFailed: it cannot; all its jobs have ended in an error.
        """
        if self._failure is not None:
            raise self._failure
        if self._session is None or self._stopped:
            raise self._died("the engine does not run")
        limit_s = self._settings.health_timeout_s
        asking = asyncio.ensure_future(_ask(self._session))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, also when late
        failed = asyncio.ensure_future(self._failed.wait())
        await first_of(asking, failed, timeout_s=limit_s)
        if not failed.done() and (not asking.done() or asking.exception() is not None):
            self._fail((asking.exception() if asking.done() else None) or _no_answer(limit_s))
        for question in (asking, failed):
            question.cancel()
        silent_s = self._now_s() - self._last_sign_s
        if self._jobs and silent_s > limit_s:
            self._fail(TimeoutError(f"no output for {silent_s:.1f} s with {len(self._jobs)} jobs"))
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """End all jobs as aborted, then the engine, its processes and ports. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        for request_id in list(self._jobs):
            self.abort(request_id)
        self._flush()
        if self._session is not None:
            leased = [lease.engine_request_id for lease in self._leases.end_all()]
            await self._session.close(leased=leased, dead=self._failure is not None)
            self._session = None
        await self._nursery.close()

    def _take_step(
        self, outcomes: "list[Outcome]", checks: Mapping[str, bool], pulled: KvPulled | None
    ) -> None:
        now_s = self._last_sign_s = self._now_s()
        assert self._facts is not None  # noqa: S101  # jobs are taken only after it is known
        if checks:
            compared = [r for r in self._jobs.values() if r.engine_request_id in checks]
            found = (read_check(r, matched=checks[r.engine_request_id]) for r in compared)
            self._kv_checks += [checked for checked in found if checked is not None]
        for running, output in outcomes:
            if running.ended:
                continue
            self._meter.brought(
                running,
                token_count=len(output.outputs[0].token_ids),
                cached_tokens=output.num_cached_tokens or 0,
            )
            delta = read_output(
                running,
                output,
                now_s=now_s,
                context_tokens_max=self._facts.limits.context_tokens_max,
                worker_id=self._worker_id,
            )
            if isinstance(running.job, PrefillJob):
                running.ended = True
                self._finals.append(self._prefilled(running, delta, output.kv_transfer_params, self._facts))
            else:
                self._finals.append(delta)
            if running.ended:
                self._jobs.pop(running.request_id, None)
        self._span = self._meter.close(now_s, left=self._jobs.values())
        self._flush(pulled)

    def _prefilled(
        self, running: RunningJob, first: Delta, params: object, facts: "SessionFacts"
    ) -> Prefilled:
        request = running.job.request
        if first.finish is not None or params is None:
            if params is not None and self._session is not None:
                self._session.release([running.engine_request_id])  # nothing is left to decode
            if first.finish is None:
                failure = self._died("the engine kept no blocks of a finished prefill")
                first = Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=failure)
            return Prefilled(request_id=request.request_id, first=first, ticket=None)
        try:
            ticket = issue_ticket(
                request,
                params,
                worker_id=self._worker_id,
                epoch=self._epoch,
                limits=facts.limits,
                kv_bytes_per_block=facts.kv_bytes_per_block,
                lease_s=self._settings.lease_s,
            )
        except TicketInvalid as failure:
            first = Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=failure)
            return Prefilled(request_id=request.request_id, first=first, ticket=None)
        lease = KeptLease(engine_request_id=running.engine_request_id, block_count=ticket.block_count)
        self._leases.open(ticket.ticket_id, lease)
        self._lease_opened.set()
        return Prefilled(request_id=request.request_id, first=first, ticket=ticket)

    def _refuse(self, job: PrefillJob | DecodeJob, error: ServingError) -> None:
        self._finish(job, FinishReason.ERROR, error)

    def _finish(self, job: PrefillJob | DecodeJob, finish: FinishReason, error: ServingError | None) -> None:
        """Give a job its final output; it goes out with the next turn of the loop, never inside a call."""
        final = Delta(request_id=job.request.request_id, finish=finish, error=error)
        if isinstance(job, PrefillJob):
            self._finals.append(Prefilled(request_id=job.request.request_id, first=final, ticket=None))
        else:
            self._finals.append(final)
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self, pulled: KvPulled | None = None) -> None:
        if not (self._finals or self._kv_checks or pulled) or self._steps is None:
            return
        finals, self._finals = self._finals, []
        checks, self._kv_checks = self._kv_checks, []
        span, self._span = self._span, None
        self._steps(
            EngineStep(
                deltas=tuple(f for f in finals if isinstance(f, Delta)),
                prefilled=tuple(f for f in finals if isinstance(f, Prefilled)),
                kv_checks=tuple(checks),
                pulled=pulled,
                span=span,
            )
        )

    def _died(self, message: str) -> EngineFailed:
        return EngineFailed(message=message, worker_id=self._worker_id)

    def _fail(self, error: BaseException) -> None:
        """Give the engine up: every job ends now, nothing new is taken."""
        if self._failure is None and not self._stopped:
            log.error("the engine failed: %r", error)
            self._failure = self._died(f"the engine failed: {error!r}")
        self._failed.set()
        failure = self._failure or self._died(f"the engine failed: {error!r}")
        jobs, self._jobs = list(self._jobs.values()), {}
        for running in jobs:
            running.ended = True
            self._refuse(running.job, failure)
        self._leases.end_all()

    async def _watch_leases(self, session: "Session") -> None:
        """Notice pulled and expired leases: the engine reports neither by itself."""
        while True:
            await self._lease_opened.wait()
            self._lease_opened.clear()
            while self._leases:
                await asyncio.sleep(_LEASE_LOOK_S)
                seen = self._leases.tickets()
                self._leases.keep_only(await session.held(), among=seen)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


async def _ask(session: "Session") -> None:
    """Ask the engine process, and its loop between two steps."""
    await session.check()
    await session.held()


def _no_answer(limit_s: float) -> TimeoutError:
    return TimeoutError(f"no answer to a health probe within {limit_s:g} s")
