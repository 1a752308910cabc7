"""The fabric: how a decode engine finds the leases of a prefill engine.

Comes in: engines that join and leave, tickets. Goes out: the lease desk behind a ticket, or where else
it is. Engines that share a `Fabric` value see each other's leases as they are. A ticket of another
fabric (another process) cannot be looked into: its pull takes its time and then tells the other side
over its side channel that the lease may end; a decode engine counts the lease by its own clock.
Invariant: an epoch names one life of one engine on all fabrics with different names.
Not here: tickets (`handoffs`), durations, sockets (`side_channel`).
"""

import uuid
from collections import deque
from dataclasses import dataclass

import msgspec

from services.domain.ids import EngineEpoch, TicketId
from services.engine.simulated.leases import LeaseDesk

LATE_PULLS_KEPT = 1024


class Connector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ticket carries for simulated engines."""

    fabric: str
    """Name of the fabric whose engine holds the blocks."""
    side_channel: str | None
    """host:port (UDP) of that engine; None when it can only be reached on its own fabric."""

    def render(self) -> str:
        """Write it as JSON."""
        return msgspec.json.encode(self).decode()


def parse_connector(text: str) -> Connector | None:
    """Read a connector; None when it is none of ours."""
    try:
        return msgspec.json.decode(text, type=Connector)
    except msgspec.DecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The leases are on another fabric."""

    side_channel: str | None


class Fabric:
    """Engines that can reach each other's memory."""

    def __init__(self, name: str | None = None) -> None:
        """Make a fabric without engines.

        Args:
            name: unique among all fabrics that exchange tickets; None draws one. A simulation that must
                repeat itself gives a name.
        """
        self.name = name or uuid.uuid4().hex[:12]
        self.late_pulls: deque[TicketId] = deque(maxlen=LATE_PULLS_KEPT)
        """Tickets whose lease had ended when a decode engine came for the blocks: a real engine would have
        read what was there by then."""
        self._joined_count = 0
        self._desks: dict[EngineEpoch, LeaseDesk] = {}

    def join(self, leases: LeaseDesk) -> EngineEpoch:
        """Let an engine's leases be found; returns the name of this life of it."""
        self._joined_count += 1
        epoch = EngineEpoch(f"{self.name}.{self._joined_count}")
        self._desks[epoch] = leases
        return epoch

    def leave(self, epoch: EngineEpoch) -> None:
        """Forget an engine: its leases are lost. Unknown epochs are ignored."""
        self._desks.pop(epoch, None)

    def find(self, connector: Connector, epoch: EngineEpoch) -> LeaseDesk | Elsewhere | None:
        """Say where the leases of an epoch are; None when that engine is gone."""
        if connector.fabric != self.name:
            return Elsewhere(connector.side_channel)
        return self._desks.get(epoch)
