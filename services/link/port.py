"""The link port: how gateways and workers reach each other, whatever carries it.

Comes in: messages of `services.domain.link`. Goes out: the same, in order, at most once.
Invariant: a link that breaks ends the iterator on both sides; nothing is sent twice, nothing is
reordered; at most `OUTBOX_MESSAGES_MAX` messages wait per link, one more closes it (a reader that is
so far behind is lost, and its requests are recovered like those of a dead process).
Not here: what the messages mean (`services.gateway`, `services.prefill`, `services.decode`).
"""

from collections.abc import AsyncIterator
from typing import Protocol

from services.domain.blocks import KvSnapshot
from services.domain.ids import EngineEpoch, GatewayId, WorkerId
from services.domain.link import ToGateway, ToWorker

OUTBOX_MESSAGES_MAX = 4096
"""Messages that may wait on one side of one link. At one frame per step this is many seconds."""

SNAPSHOT_TIMEOUT_S = 10.0
"""Longest wait for a snapshot: a million blocks take well under a second on a working link."""


class WorkerLink(Protocol):
    """A gateway's end of a link to one worker."""

    worker_id: WorkerId
    epoch: EngineEpoch

    def send(self, message: ToWorker) -> bool:
        """Queue a message; False when the link is closed and the message went nowhere.

        Raises:
            BodyTooLarge: the message is larger than the link carries; the link stays open.
        """
        ...

    def messages(self) -> AsyncIterator[ToGateway]:
        """Iterate over the worker's messages until the link ends. One iteration per link."""
        ...

    async def snapshot(self) -> KvSnapshot:
        """Ask for everything the worker's cache holds.

        Raises:
            WorkerLost: the link ended first or the worker took longer than `SNAPSHOT_TIMEOUT_S`.
        """
        ...

    async def close(self) -> None:
        """End the link; idempotent."""
        ...


class Dialer(Protocol):
    """How a gateway opens links."""

    async def connect(self, address: str, *, gateway_id: GatewayId, timeout_s: float) -> WorkerLink:
        """Open a link and exchange `Hello` and `Welcome`.

        Raises:
            WorkerLost: nobody answered in time.
        """
        ...


class GatewayLink(Protocol):
    """A worker's end of a link to one gateway."""

    gateway_id: GatewayId

    def send(self, message: ToGateway) -> bool:
        """Queue a message; False when the link is closed and the message went nowhere."""
        ...


class WorkerEndpoint(Protocol):
    """What a worker answers with; implemented by `services.worker`."""

    worker_id: WorkerId
    epoch: EngineEpoch

    def opened(self, link: GatewayLink) -> None:
        """A gateway attached; a link of the same gateway that was open before has been closed."""
        ...

    def received(self, link: GatewayLink, message: ToWorker) -> None:
        """A message came in; must not block."""
        ...

    def closed(self, link: GatewayLink) -> None:
        """The link ended; its gateway must be taken for gone."""
        ...

    def snapshot(self) -> KvSnapshot:
        """Everything the cache holds now."""
        ...


class LinkServer(Protocol):
    """How a worker is reached."""

    async def serve(self, endpoint: WorkerEndpoint) -> str:
        """Start listening; returns the address (host:port) that gateways connect to.

        Raises:
            ConfigurationInvalid: the address cannot be bound; the message names it.
        """
        ...

    async def close(self) -> None:
        """Close all links and stop listening; idempotent."""
        ...
