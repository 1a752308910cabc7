"""Where a request goes: the questions that a journey asks the router, and how long it asks.

Comes in: a life and what it can reach. Goes out: placements. Invariant: a new request is placed or refused at
once, but for its turn in the waiting room and a moment in which links come back; one that has begun is placed
again as long as `recovery_patience_s` and its deadline allow.
Not here: going there (`services.gateway.journey`).
"""

import asyncio

from services.domain.blocks import BlockHash
from services.domain.errors import NotReady, Rejected, Saturated
from services.domain.handoff import Ticket
from services.domain.ids import WorkerId
from services.domain.placement import (
    DecodePlacement,
    DecodeQuery,
    Path,
    PathPreference,
    Placement,
    PlacementQuery,
)
from services.domain.timeline import Mark
from services.gateway.life import Life
from services.gateway.reach import Reach

RECOVERY_RETRY_S = 0.1
"""Between two tries to place a request anew: less than a status takes to arrive."""


class Placing:
    """Asks for one request."""

    def __init__(self, life: Life, reach: Reach, hashes: tuple[BlockHash, ...]) -> None:
        self._life = life
        self._reach = reach
        self._hashes = hashes

    async def first(self, preference: PathPreference) -> Placement:
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
            async with self._reach.in_time(self._life):
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
            margins=self._reach.router.misses.margins(request.model),
            preference=preference,
            avoid_worker_ids=self._avoided(),
        )
        async with self._reach.in_time(self._life):
            outcome = await self._reach.placer.place(query)
        if isinstance(outcome, Rejected):
            raise outcome
        if life.placement is None:
            life.mark(Mark.PLACED, self._reach.clock.now_s())
        life.placement = outcome
        self._reach.meters.count("baton_placements_total", path=outcome.path.value)
        return outcome

    async def again(self, preference: PathPreference) -> Placement:
        """Place a request whose way broke: a worker that is coming back is worth a short wait.

        Raises:
            Rejected: nobody came back within `recovery_patience_s`.
            DeadlineExceeded: the deadline passed meanwhile.
        """
        reach = self._reach
        until_s = reach.clock.now_s() + reach.settings.recovery_patience_s
        while True:
            try:
                placement = await self._place(preference)
                if placement.path is Path.LOCAL or not self._life.emitted:
                    return placement
                # A ticket covers the prompt, not the tokens sent since: only decode can go on.
                raise NotReady(message="no decode worker can go on with this request", retry_after_s=1.0)
            except (NotReady, Saturated):
                if reach.clock.now_s() >= self._life.deadline_at_s:
                    raise self._life.too_late() from None
                if reach.clock.now_s() >= until_s:
                    raise
            self._life.failed_workers.clear()  # nobody else is there: who failed once may do better now
            async with self._reach.in_time(self._life):
                await asyncio.sleep(RECOVERY_RETRY_S)

    async def decode(self, prefill_worker_id: WorkerId, ticket: Ticket) -> DecodePlacement:
        """Choose who goes on with a handed-over prompt.

        Raises:
            Rejected: nobody can.
            DeadlineExceeded: the deadline passed meanwhile.
        """
        life, request = self._life, self._life.request
        output_tokens_max = max(1, request.sampling.max_tokens - 1)
        query = DecodeQuery(
            request_id=request.request_id,
            scope=request.scope,
            context_tokens=request.prompt_tokens + 1,
            output_tokens_max=output_tokens_max,
            output_tokens_expected=self._reach.router.lengths.expect(request.model, output_tokens_max),
            compatibility=ticket.compatibility,
            avoid_worker_ids=self._avoided(),
            holder_id=prefill_worker_id,
            waited_s=life.timeline().waited_s,
            task_id=life.task_id,
        )
        async with self._reach.in_time(self._life):
            outcome = await self._reach.placer.place_decode(query)
        if isinstance(outcome, Rejected):
            raise outcome
        life.decode_placement = outcome
        return outcome

    def _avoided(self) -> tuple[WorkerId, ...]:
        return tuple(sorted({*self._life.failed_workers, *self._reach.unreliable()}))
