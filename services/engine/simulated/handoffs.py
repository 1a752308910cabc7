"""Handing over: the end of a prefill becomes a lease, and a ticket that says how its blocks are found.

Comes in: prefilled sequences with their blocks. Goes out: tickets. Invariant: every ticket has one lease,
which runs from the moment the ticket was written. Not here: pulling (`pulls`), ending leases (`leases`).
"""

from services.domain.handoff import Ticket, prompt_digest
from services.domain.ids import EngineEpoch, TicketId, WorkerId
from services.engine.simulated.fabric import Connector
from services.engine.simulated.fingerprints import fingerprint_sample
from services.engine.simulated.leases import LeaseDesk
from services.engine.simulated.pool import Holding
from services.engine.simulated.sequence import Sequence
from services.engine.simulated.settings import SimulatedSettings


class HandoffDesk:
    """Writes the tickets of one engine."""

    def __init__(self, settings: SimulatedSettings, *, worker_id: WorkerId, leases: LeaseDesk) -> None:
        self._settings = settings
        self._limits = settings.limits()
        self._worker_id = worker_id
        self._leases = leases
        self._written = 0

    def lease(
        self, sequence: Sequence, holding: Holding, *, epoch: EngineEpoch, connector: Connector
    ) -> Ticket:
        """Keep the blocks of a finished prompt and write their ticket.

        Args:
            sequence: that was prefilled.
            holding: its blocks.
            epoch: of this engine.
            connector: how the blocks are found.
        """
        self._written += 1
        request, limits = sequence.request, self._limits
        ticket = Ticket(
            ticket_id=TicketId(f"{epoch}-{self._written}"),
            request_id=request.request_id,
            prefill_worker_id=self._worker_id,
            epoch=epoch,
            digest=prompt_digest(request.prompt_token_ids, request.scope),
            prompt_tokens=request.prompt_tokens,
            block_size_tokens=limits.block_size_tokens,
            block_count=holding.blocks,
            kv_bytes=holding.blocks * limits.block_size_tokens * limits.kv_bytes_per_token,
            lease_s=self._settings.lease_s,
            compatibility=limits.compatibility,
            connector=connector.render(),
            checks=fingerprint_sample(
                sequence,
                block_size_tokens=limits.block_size_tokens,
                handoff_frac=self._settings.kv_check_frac,
                blocks_max=self._settings.kv_check_blocks,
            ),
        )
        self._leases.grant(ticket.ticket_id, holding)
        return ticket
