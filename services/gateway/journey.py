"""The way of one request: placed, queued or started, handed over, streamed, and mended when it breaks.

Comes in: a life and what it can reach. Goes out: its deltas.
Invariant: every wait ends by mail, patience or the deadline; a way that fails is left for another until
`attempts_max`; tokens already sent are neither lost nor repeated; when the journey ends for whatever
reason, nothing of it is left in the queue, on a link, under a lease or in an engine.
Not here: mail delivery and records (`services.gateway.conductor`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from services.domain.blocks import BlockHash
from services.domain.errors import (
    Aborted,
    BodyTooLarge,
    DeadlineExceeded,
    EngineFailed,
    Fault,
    NotReady,
    Rejected,
    Saturated,
    ServingError,
    WorkerLost,
)
from services.domain.handoff import Handoff, Ticket
from services.domain.ids import TaskId, WorkerId
from services.domain.link import StartDecode, TaskFailed
from services.domain.placement import (
    DecodePlacement,
    DecodeQuery,
    Path,
    PathPreference,
    Placement,
    PlacementQuery,
)
from services.domain.stream import Delta, FinishReason
from services.domain.task import PrefillTask, TaskRecord, mark_prefix
from services.domain.timeline import Mark
from services.gateway.life import Claimed, DeadlinePassed, Life, LinkLost, Offer
from services.gateway.pacing import first_token_hold_s
from services.gateway.reach import Reach

RECOVERY_RETRY_S = 0.1
"""Between two tries to place a request anew: less than a status takes to arrive."""


class Journey:
    """Leads one request to its end."""

    def __init__(self, life: Life, reach: Reach, hashes: tuple[BlockHash, ...]) -> None:
        self._life = life
        self._reach = reach
        self._hashes = hashes
        self._queued_again = False

    async def run(self) -> AsyncGenerator[Delta]:
        """Serve the request; see `Serving.generate`."""
        preference = self._life.options.preference
        problem: ServingError | None = None
        while True:
            placement = await (
                self._place_first(preference) if problem is None else self._place_again(preference)
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
                    raise self._too_late()

    # -- placement ------------------------------------------------------------------------------

    async def _place_first(self, preference: PathPreference) -> Placement:
        """Place a new request; while decode is full it waits for its turn, as long as it stays in time.

        Raises:
            Rejected: why it is not served.
            DeadlineExceeded: the deadline passed in the waiting room.
        """
        return await self._reach.room.place(self._life, lambda: self._place_linked(preference))

    async def _place_linked(self, preference: PathPreference) -> Placement:
        """Place a new request; when workers are there but no link to them, wait a moment for one.

        A gateway that stood still for seconds wakes up with its links closed by the workers.
        """
        reach = self._reach
        until_s = reach.clock.now_s() + reach.settings.link_patience_s
        while True:
            try:
                return await self._place(preference)
            except NotReady:
                left_s = until_s - reach.clock.now_s()
                if left_s <= 0 or not reach.unlinked():
                    raise
            async with self._in_time():
                await reach.links.wait_changed(left_s)

    async def _place(self, preference: PathPreference) -> Placement:
        life, request = self._life, self._life.request
        output_tokens_max = max(1, request.sampling.max_tokens - len(life.emitted))
        query = PlacementQuery(
            request_id=request.request_id,
            scope=request.scope,
            prompt_tokens=request.prompt_tokens + len(life.emitted),
            block_hashes=self._hashes,
            output_tokens_max=output_tokens_max,
            output_tokens_expected=self._reach.router.lengths.expect(request.model, output_tokens_max),
            priority=request.priority,
            deadline_s=life.deadline_at_s - self._reach.clock.now_s(),
            waited_s=self._reach.clock.now_s() - life.accepted_s,
            begun=life.attempts > 0,
            preference=preference,
            avoid_worker_ids=self._avoided(),
        )
        async with self._in_time():
            outcome = await self._reach.placer.place(query)
        if isinstance(outcome, Rejected):
            raise outcome
        if life.placement is None:
            life.mark(Mark.PLACED, self._reach.clock.now_s())
        life.placement = outcome
        self._reach.meters.count("baton_placements_total", path=outcome.path.value)
        return outcome

    async def _place_again(self, preference: PathPreference) -> Placement:
        """Place a request whose way broke: a worker that is coming back is worth a short wait.

        Raises:
            Rejected: nobody came back within `recovery_patience_s`.
        """
        reach = self._reach
        until_s = min(reach.clock.now_s() + reach.settings.recovery_patience_s, self._life.deadline_at_s)
        while True:
            try:
                placement = await self._place(preference)
                if placement.path is Path.LOCAL or not self._life.emitted:
                    return placement
                # A ticket covers the prompt, not the tokens sent since: only decode can go on.
                raise NotReady(message="no decode worker can go on with this request", retry_after_s=1.0)
            except (NotReady, Saturated):
                if reach.clock.now_s() >= until_s:
                    raise
            self._life.failed_workers.clear()  # nobody else is there: who failed once may do better now
            async with self._in_time():
                await asyncio.sleep(RECOVERY_RETRY_S)

    async def _place_decode(self, prefill_worker_id: WorkerId, ticket: Ticket) -> DecodePlacement:
        life, request = self._life, self._life.request
        output_tokens_max = max(1, request.sampling.max_tokens - 1)
        query = DecodeQuery(
            request_id=request.request_id,
            scope=request.scope,
            context_tokens=request.prompt_tokens + 1,
            output_tokens_max=output_tokens_max,
            output_tokens_expected=self._reach.router.lengths.expect(request.model, output_tokens_max),
            compatibility=ticket.compatibility,
            avoid_worker_ids=(*self._avoided(), prefill_worker_id),
        )
        async with self._in_time():
            outcome = await self._reach.placer.place_decode(query)
        if isinstance(outcome, Rejected):
            raise outcome
        life.decode_placement = outcome
        return outcome

    def _avoided(self) -> tuple[WorkerId, ...]:
        return tuple(sorted({*self._life.failed_workers, *self._reach.unreliable()}))

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
            preferred_worker_id=placement.worker_id,
            preferred_overlap_blocks=placement.overlap_blocks,
        )
        task = PrefillTask(record=record, request=replace(life.request, request_id=attempt_id))
        async with self._in_time():
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
                    raise self._too_late()

    # -- decode ---------------------------------------------------------------------------------

    async def _hand_over(self, handoff: Handoff, ticket: Ticket) -> Delta | None:
        """Send the ticket to a decode worker; returns the first token once it may be shown."""
        life, reach = self._life, self._reach
        chosen = await self._place_decode(handoff.worker_id, ticket)
        early = life.take(handoff.first) if handoff.first_is_exact else None
        life.first_token_early = early is not None
        received_s = life.accepted_s if life.offer is None else life.offer.received_s
        age_s = reach.clock.now_s() - received_s
        left_s = ticket.lease_s - age_s - reach.settings.lease_margin_s
        reach.drop_attempt(life, cancel=False)
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
        view = self._reach.router.fleet.get(chosen.worker_id)
        if view is None:
            return
        step_s = next(c.step_s for c in chosen.candidates if c.worker_id == chosen.worker_id)
        hold_s = first_token_hold_s(
            ticket, view.status.performance, step_s, self._reach.router.settings.tpot_target_s
        )
        if hold_s > 0:
            async with self._in_time():
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

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Bound a wait that no mail ends.

        Raises:
            DeadlineExceeded: the deadline passed first.
        """
        try:
            async with asyncio.timeout(self._life.deadline_at_s - self._reach.clock.now_s()):
                yield
        except TimeoutError:
            raise self._too_late() from None

    def _too_late(self) -> DeadlineExceeded:
        deadline_s = self._life.deadline_at_s - self._life.accepted_s
        return DeadlineExceeded(
            message=f"the deadline of {deadline_s:g} s passed after {len(self._life.emitted)} tokens",
            deadline_s=deadline_s,
        )


def _mendable(problem: ServingError) -> bool:
    """Whether another way may lead where this one did not: another worker, or no queue."""
    if isinstance(problem, DeadlineExceeded):
        return False
    return isinstance(problem, Aborted | NotReady | Saturated | BodyTooLarge) or (
        isinstance(problem, Fault) and problem.retryable
    )


def _stopped(worker_id: WorkerId | None) -> WorkerLost:
    return WorkerLost(worker_id=worker_id or "?", message=f"{worker_id} stopped before the request was done")
