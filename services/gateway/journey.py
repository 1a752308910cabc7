"""The way of one request: placed, queued or started, handed over, streamed, and mended when it breaks.

Comes in: a life and what it can reach. Goes out: its deltas.
Invariant: every wait ends by mail, patience or the deadline; a way that fails is left for another until
`attempts_max`; tokens already sent are neither lost nor repeated; when the journey ends for whatever
reason, nothing of it is left in the queue, on a link, under a lease or in an engine.
Not here: mail delivery and records (`services.gateway.conductor`).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from services.domain.blocks import BlockHash
from services.domain.errors import (
    Aborted,
    BodyTooLarge,
    DeadlineExceeded,
    EngineFailed,
    Fault,
    NotReady,
    Saturated,
    ServingError,
    WorkerLost,
)
from services.domain.handoff import Handoff, Ticket
from services.domain.ids import TaskId, WorkerId
from services.domain.link import StartDecode, TaskFailed
from services.domain.placement import (
    DecodePlacement,
    Path,
    PathPreference,
    Placement,
)
from services.domain.stream import Delta, FinishReason
from services.domain.task import PrefillTask, TaskRecord, mark_prefix
from services.domain.timeline import Mark
from services.gateway.life import Claimed, DeadlinePassed, Life, LinkLost, Offer
from services.gateway.pacing import first_token_hold_s
from services.gateway.placing import Placing
from services.gateway.reach import Reach


class Journey:
    """Leads one request to its end."""

    def __init__(self, life: Life, reach: Reach, hashes: tuple[BlockHash, ...]) -> None:
        self._life = life
        self._reach = reach
        self._hashes = hashes
        self._placing = Placing(life, reach, hashes)
        self._queued_again = False

    async def run(self) -> AsyncGenerator[Delta]:
        """Serve the request; see `Serving.generate`."""
        preference = self._life.options.preference
        problem: ServingError | None = None
        while True:
            placement = await (
                self._placing.first(preference) if problem is None else self._placing.again(preference)
            )
            try:
                async with aclosing(self._attempt(placement)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except ServingError as error:
                problem = error
                preference = self._leave(error)

    async def _attempt(self, placement: Placement) -> AsyncGenerator[Delta]:
        """Go one way to its end.

        Raises:
            ServingError: why this way did not get there.
        """
        life = self._life
        if placement.path is Path.REMOTE:
            handoff = await self._prefill(placement)
            if handoff.ticket is None:
                self._reach.answer_offer(life, taken=True, pulled=False)
                yield life.take(handoff.first) or handoff.first
                return
            early = await self._hand_over(handoff, handoff.ticket)
            if early is not None:
                yield early
        else:
            self._send_start(placement.worker_id, None)
        while True:
            match await life.next():
                case Delta(finish=FinishReason.ERROR, error=ServingError() as error):
                    life.ticket_is_out = False  # refused before any engine saw it, if it is unanswered still
                    raise error
                case Delta(finish=FinishReason.ABORTED):
                    raise _stopped(life.decode_worker_id)
                case Delta() as written:
                    delta = life.take(written)
                    if delta is not None:
                        yield delta
                    if written.finish is not None:
                        return
                case LinkLost(worker_id=worker_id) if worker_id == life.decode_worker_id:
                    raise WorkerLost(worker_id=worker_id, message=f"the link to {worker_id} broke")
                case DeadlinePassed():
                    raise self._life.too_late()

    # -- remote prefill -------------------------------------------------------------------------

    async def _prefill(self, placement: Placement) -> Handoff:
        """Have the prompt prefilled by whoever claims it.

        Raises:
            ServingError: why that came to nothing.
        """
        life, reach = self._life, self._reach
        attempt_id = life.begin_attempt("p", reach.gateway_id)
        life.task_id = TaskId(attempt_id)
        reach.attempts[attempt_id] = life
        now_s = reach.clock.now_s()
        record = TaskRecord(
            task_id=life.task_id,
            gateway_id=reach.gateway_id,
            model=life.request.model,
            priority=life.request.priority,
            prompt_tokens=life.request.prompt_tokens,
            marks=mark_prefix(self._hashes),
            deadline_s=life.deadline_at_s - now_s,
            ttft_target_s=max(0.0, life.accepted_s + reach.router.settings.ttft_target_s - now_s),
            decode_s=placement.predicted_s - placement.predicted_ttft_s,
            slo=reach.router.settings.slo,
            preferred_worker_id=placement.worker_id,
            preferred_overlap_blocks=placement.overlap_blocks,
        )
        task = PrefillTask(record=record, request=replace(life.request, request_id=attempt_id))
        async with reach.in_time(life):
            await reach.bus.queue.enqueue(task)
        life.mark(Mark.QUEUED, reach.clock.now_s())
        return await self._await_handoff(reach.settings.claim_patience_s + placement.predicted_ttft_s)

    async def _await_handoff(self, patience_s: float) -> Handoff:
        life, reach = self._life, self._reach
        while True:
            mail = await life.next(patience_s if life.prefill_worker_id is None else None)
            match mail:
                case None:
                    raise NotReady(
                        message=f"no prefill worker took the task within {patience_s:g} s", retry_after_s=1.0
                    )
                case Claimed(worker_id=worker_id):
                    life.prefill_worker_id = worker_id
                    life.mark(Mark.CLAIMED, reach.clock.now_s())
                case Offer(handoff=handoff):
                    life.handoff = handoff
                    life.note_cached(handoff.first.cached_tokens)
                    life.mark(Mark.PREFILLED, reach.clock.now_s())
                    return handoff
                case TaskFailed(final=final):
                    raise final.error or _stopped(life.prefill_worker_id)
                case LinkLost(worker_id=worker_id) if worker_id == life.prefill_worker_id:
                    raise WorkerLost(worker_id=worker_id, message=f"{worker_id} was lost during the prefill")
                case DeadlinePassed():
                    raise self._life.too_late()

    # -- decode ---------------------------------------------------------------------------------

    async def _hand_over(self, handoff: Handoff, ticket: Ticket) -> Delta | None:
        """Send the ticket to a decode worker; returns the first token once it may be shown.

        The worker that computed the prompt may go on with it itself: it is sent none, since it finds the
        prompt's blocks in its own cache.
        """
        life, reach = self._life, self._reach
        chosen = await self._placing.decode(handoff.worker_id, ticket)
        early = life.take(handoff.first) if handoff.first_is_exact else None
        life.first_token_early = early is not None
        received_s = life.accepted_s if life.offer is None else life.offer.received_s
        age_s = reach.clock.now_s() - received_s
        left_s = ticket.lease_s - age_s - reach.settings.lease_margin_s
        reach.drop_attempt(life, cancel=False)
        if chosen.worker_id == handoff.worker_id:
            self._send_start(chosen.worker_id, None)
            reach.answer_offer(life, taken=True, pulled=False)
            return early
        self._send_start(chosen.worker_id, replace(ticket, lease_s=left_s))
        if early is not None:
            await self._hold(ticket, chosen)
        return early

    def _send_start(self, worker_id: WorkerId, ticket: Ticket | None) -> None:
        life, reach = self._life, self._reach
        attempt_id = life.begin_attempt("d", reach.gateway_id)
        life.decode_worker_id = worker_id
        reach.attempts[attempt_id] = life
        sent = reach.links.send(
            worker_id,
            StartDecode(
                request=replace(life.request, request_id=attempt_id),
                ticket=ticket,
                emitted_token_ids=life.resume_tokens(),
                deadline_s=life.deadline_at_s - reach.clock.now_s(),
            ),
        )
        life.ticket_is_out = sent and ticket is not None
        if not sent:
            life.post(LinkLost(worker_id=worker_id))

    async def _hold(self, ticket: Ticket, chosen: DecodePlacement) -> None:
        """Keep the first token until the second can follow at pace."""
        router, request = self._reach.router, self._life.request
        view = router.fleet.get(chosen.worker_id)
        if view is None:
            return
        step_s = next(c.step_s for c in chosen.candidates if c.worker_id == chosen.worker_id)
        hold_s = first_token_hold_s(
            ticket,
            view.status.performance,
            step_s=step_s,
            tpot_target_s=router.settings.tpot_target_s,
            output_tokens=router.lengths.expect(request.model, request.sampling.max_tokens),
        )
        if hold_s > 0:
            async with self._reach.in_time(self._life):
                await asyncio.sleep(hold_s)

    # -- when a way fails -----------------------------------------------------------------------

    def _leave(self, problem: ServingError) -> PathPreference:
        """Give up the present way for another, or the request if no other can help.

        Raises:
            ServingError: the problem, when another way would meet it again.
        """
        life, reach = self._life, self._reach
        worker_id = life.decode_worker_id or life.prefill_worker_id
        prefilling = life.decode_worker_id is None
        reach.close_offer(life)
        reach.drop_attempt(life, cancel=True)
        if not _mendable(problem) or life.attempts >= reach.settings.attempts_max:
            raise problem
        if worker_id is not None and isinstance(problem, WorkerLost | EngineFailed | NotReady):
            life.failed_workers.add(worker_id)
        if worker_id is not None and isinstance(problem, EngineFailed):
            reach.router.fold_failure(worker_id, reach.clock.now_s())
        life.fall_back(str(problem))
        reach.meters.count("baton_fallbacks_total", cause=problem.code)
        if prefilling and isinstance(problem, WorkerLost | EngineFailed) and not self._queued_again:
            self._queued_again = True
            return life.options.preference  # another prefill worker at once; after that, decode
        return PathPreference.LOCAL


def _mendable(problem: ServingError) -> bool:
    """Whether another way may lead where this one did not: another worker, or no queue."""
    if isinstance(problem, DeadlineExceeded):
        return False
    return isinstance(problem, Aborted | NotReady | Saturated | BodyTooLarge) or (
        isinstance(problem, Fault) and problem.retryable
    )


def _stopped(worker_id: WorkerId | None) -> WorkerLost:
    return WorkerLost(worker_id=worker_id or "?", message=f"{worker_id} stopped before the request was done")
