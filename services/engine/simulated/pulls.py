"""Pulls: a decode engine reads the blocks of a ticket.

Comes in: sequences with tickets. Goes out: readable blocks after the transfer's time, or why not.
Transfers of one engine share its link one after another; its steps go on meanwhile. A sequence that
waits for its pull holds the lease (vLLM's heartbeats). Invariant: the lease of every reserved sequence
is ended or running again when the sequence is done with it.
Not here: room for the blocks (`scheduler`), the leases themselves (`leases`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.domain.errors import KvCorrupt, KvLost, ServingError
from services.domain.handoff import Ticket, prompt_digest
from services.domain.integrity import KvChecked
from services.domain.performance import PerformanceModel
from services.domain.worker import WorkerLimits
from services.engine.simulated.fabric import Elsewhere, Fabric, parse_connector
from services.engine.simulated.fingerprints import compare
from services.engine.simulated.leases import LeaseDesk
from services.engine.simulated.sequence import Sequence, prompt_blocks
from services.engine.simulated.side_channel import SideChannel


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRefused:
    """A pull that cannot begin."""

    error: ServingError
    """Of the sequence."""
    fatal: str | None = None
    """Why the whole engine dies of it; None when it lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEnd:
    """How a transfer ended."""

    error: ServingError | None = None
    """None when the blocks can be used."""
    checked: KvChecked | None = None
    """What comparing fingerprints found; None when none was compared."""


@dataclass(slots=True, eq=False)
class _Pull:
    ticket: Ticket
    source: LeaseDesk | Elsewhere
    reserved_s: float
    first_block: int = 0
    flipped_block: int | None = None
    timer: asyncio.TimerHandle | None = None


class Pulls:
    """All pulls of one engine."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        side_channel: SideChannel,
        performance: PerformanceModel,
        limits: WorkerLimits,
    ) -> None:
        self._fabric = fabric
        self._side_channel = side_channel
        self._performance = performance
        self._limits = limits
        self._pulls: dict[Sequence, _Pull] = {}
        self._link_free_s = 0.0
        self._flips_left = 0
        self._flip_place = -1

    def corrupt_next(self, count: int, place: int) -> None:
        """Change a block of each of the next `count` pulls on the way.

        Args:
            count: pulls that move at least one block.
            place: which of the blocks that are moved: 0 is the first, -1 the last; taken modulo their number.
        """
        self._flips_left, self._flip_place = count, place

    def reserve(self, sequence: Sequence, now_s: float) -> PullRefused | None:
        """Hold the lease of a sequence's ticket until its pull; None when it is held."""
        ticket = sequence.ticket
        if ticket is None:
            return None
        connector = parse_connector(ticket.connector)
        source = self._fabric.find(connector, ticket.epoch) if connector is not None else Elsewhere(None)
        if source is None:
            return PullRefused(error=_lost(ticket))
        if isinstance(source, LeaseDesk) and source.hold(ticket.ticket_id) is None:
            self._fabric.late_pulls.append(ticket.ticket_id)
            return PullRefused(error=_lost(ticket))
        self._pulls[sequence] = _Pull(ticket, source, now_s)
        return None

    def begin(self, sequence: Sequence, on_end: Callable[[PullEnd], None]) -> PullRefused | None:
        """Start the transfer of the blocks that the sequence does not share already.

        Args:
            sequence: reserved, and with room for its blocks.
            on_end: called once the transfer ended.
        """
        pull = self._pulls[sequence]
        ticket = pull.ticket
        blocks = prompt_blocks(sequence, self._limits.block_size_tokens)
        if parse_connector(ticket.connector) is None or ticket.block_count < blocks:
            why = f"ticket {ticket.ticket_id} names {ticket.block_count} blocks, its prompt needs {blocks}"
            return PullRefused(error=_lost(ticket), fatal=why)
        now_s = asyncio.get_running_loop().time()
        if isinstance(pull.source, Elsewhere) and now_s - pull.reserved_s >= ticket.lease_s:
            return PullRefused(error=_lost(ticket))
        request = sequence.request
        if ticket.digest != prompt_digest(request.prompt_token_ids, request.scope):
            sequence.holding.tainted = True
        block_bytes = self._limits.block_size_tokens * self._limits.kv_bytes_per_token
        pull.first_block = len(sequence.holding.shared)
        moved = blocks - pull.first_block
        if moved and self._flips_left:
            self._flips_left -= 1
            pull.flipped_block = pull.first_block + self._flip_place % moved
        size_bytes = moved * block_bytes
        alone_s = self._performance.transfer_s(size_bytes)
        bytes_s = alone_s - self._performance.handoff_s
        self._link_free_s = max(self._link_free_s, now_s) + bytes_s
        ends_s = self._link_free_s + self._performance.handoff_s
        pull.timer = asyncio.get_running_loop().call_at(ends_s, self._ended, sequence, on_end)
        return None

    def give_up(self, sequence: Sequence, *, engine_lives: bool) -> None:
        """Be done with a sequence's ticket if it has one left.

        Args:
            sequence: any sequence that ends.
            engine_lives: a living engine ends the lease; a dead one is silent and lets it run out.
        """
        pull = self._pulls.pop(sequence, None)
        if pull is None:
            return
        if pull.timer is not None:
            pull.timer.cancel()
        if engine_lives:
            self._end_lease(pull)
        elif isinstance(pull.source, LeaseDesk):
            pull.source.resume(pull.ticket.ticket_id)

    def _ended(self, sequence: Sequence, on_end: Callable[[PullEnd], None]) -> None:
        pull = self._pulls.pop(sequence)
        on_end(self._judge(sequence, pull) if self._end_lease(pull) else PullEnd(error=_lost(pull.ticket)))

    def _judge(self, sequence: Sequence, pull: _Pull) -> PullEnd:
        """Compare fingerprints; what nobody fingerprinted is used as it came, wrong or not."""
        ticket = pull.ticket
        flipped = () if pull.flipped_block is None else (pull.flipped_block,)
        if sequence.holding.tainted:
            return PullEnd()  # another prompt's blocks are intact: their fingerprints say nothing
        checked = compare(
            sequence,
            ticket,
            first_block=pull.first_block,
            flipped=flipped,
            block_size_tokens=self._limits.block_size_tokens,
        )
        if checked is not None and not checked.matched:
            return PullEnd(error=_corrupt(ticket), checked=checked)
        sequence.holding.tainted = bool(flipped)
        return PullEnd(checked=checked)

    def _end_lease(self, pull: _Pull) -> bool:
        if isinstance(pull.source, LeaseDesk):
            return pull.source.end(pull.ticket.ticket_id)
        if pull.source.side_channel is not None:
            self._side_channel.tell_pulled(pull.source.side_channel, pull.ticket.ticket_id)
        return True


def _corrupt(ticket: Ticket) -> KvCorrupt:
    return KvCorrupt(
        worker_id=ticket.prefill_worker_id,
        message=f"the KV of ticket {ticket.ticket_id} arrived changed; compute the prompt again",
    )


def _lost(ticket: Ticket) -> KvLost:
    return KvLost(
        worker_id=ticket.prefill_worker_id,
        message=f"the KV of ticket {ticket.ticket_id} is gone; prefill the prompt again",
    )
