"""Both ends of one link inside one process, and the line between them.

Invariant: each end closes once; the worker's endpoint hears of it once; what was sent before an orderly
close arrives before the close does. Not here: who is joined with whom (`services.link.memory`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from services.domain.blocks import KvSnapshot
from services.domain.errors import WorkerLost
from services.domain.ids import GatewayId, WorkerId
from services.domain.link import ToGateway, ToWorker
from services.link.conduit import Conduit
from services.link.port import OUTBOX_MESSAGES_MAX, SNAPSHOT_TIMEOUT_S, WorkerEndpoint


class MemoryWorkerLink:
    """The gateway's end."""

    def __init__(self, line: "MemoryLine", endpoint: WorkerEndpoint) -> None:
        self.worker_id = endpoint.worker_id
        self.epoch = endpoint.epoch
        self._line = line
        self._endpoint = endpoint
        self._unread: deque[ToGateway] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._snapshots: set[asyncio.Future[KvSnapshot]] = set()

    @property
    def unread(self) -> int:
        """Messages that arrived and were not taken."""
        return len(self._unread)

    def send(self, message: ToWorker) -> bool:
        """Queue a message; False when the link is closed and the message went nowhere."""
        if self._closed:
            return False
        if len(self._line.to_worker) >= OUTBOX_MESSAGES_MAX:
            self._end_in_order(lose=True)
            return False
        self._line.to_worker.put(lambda: self._line.worker_end.take(message))
        return True

    async def messages(self) -> AsyncIterator[ToGateway]:
        """Iterate over the worker's messages until the link ends. One iteration per link."""
        while True:
            while self._unread:
                yield self._unread.popleft()
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()

    async def snapshot(self) -> KvSnapshot:
        """Ask for everything the worker's cache holds.

        Raises:
            WorkerLost: the link ended first or the worker took longer than `SNAPSHOT_TIMEOUT_S`.
        """
        if self._closed:
            raise self._lost()
        answer: asyncio.Future[KvSnapshot] = asyncio.get_running_loop().create_future()
        self._snapshots.add(answer)
        self._line.to_worker.put(lambda: self._take_snapshot(answer))
        try:
            async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise self._lost() from None
        finally:
            self._snapshots.discard(answer)

    async def close(self) -> None:
        """End the link; idempotent."""
        self._unread.clear()
        self._end_in_order(lose=False)

    def take(self, message: ToGateway) -> None:
        """A message arrived."""
        if not self._closed:
            self._line.witness(self._line.gateway_id, self.worker_id, message)
            self._unread.append(message)
            self._changed.set()

    def ended(self) -> None:
        """The link has ended; what arrived before can still be read."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._line.to_gateway.clear()
        for answer in self._snapshots:
            if not answer.done():
                answer.set_exception(self._lost())

    def _end_in_order(self, *, lose: bool) -> None:
        """Close this end now and the other one when the news arrives there."""
        if self._closed:
            return
        self.ended()
        if lose:
            self._line.to_worker.clear()
        self._line.to_worker.put(self._line.worker_end.ended)

    def _take_snapshot(self, answer: "asyncio.Future[KvSnapshot]") -> None:
        """Run at the worker's end: read the cache and send it back."""
        snapshot = self._endpoint.snapshot()
        self._line.to_gateway.put(lambda: None if answer.done() else answer.set_result(snapshot))

    def _lost(self) -> WorkerLost:
        return WorkerLost(worker_id=self.worker_id, message=f"the link to {self.worker_id} ended or hangs")


class MemoryGatewayLink:
    """The worker's end."""

    def __init__(self, line: "MemoryLine", endpoint: WorkerEndpoint) -> None:
        self.gateway_id = line.gateway_id
        self._line = line
        self._endpoint = endpoint
        self._closed = False
        self._told = False

    def send(self, message: ToGateway) -> bool:
        """Queue a message; False when the link is closed and the message went nowhere."""
        if self._closed:
            return False
        if len(self._line.to_gateway) + self._line.gateway_end.unread >= OUTBOX_MESSAGES_MAX:
            self._closed = True
            self._line.to_gateway.clear()
            self._line.to_gateway.put(self._line.gateway_end.ended)
            asyncio.get_running_loop().call_soon(self.ended)
            return False
        self._line.to_gateway.put(lambda: self._line.gateway_end.take(message))
        return True

    def take(self, message: ToWorker) -> None:
        """A message arrived. An endpoint that fails on it loses the link, as over the network."""
        if self._closed:
            return
        self._line.witness(self.gateway_id, self._endpoint.worker_id, message)
        try:
            self._endpoint.received(self, message)
        except BaseException:
            self._line.sever()
            raise

    def end(self) -> None:
        """Close this end now and the other one when the news arrives there; idempotent."""
        if not self._closed:
            self._line.to_gateway.put(self._line.gateway_end.ended)
        self.ended()

    def ended(self, *, endpoint_lives: bool = True) -> None:
        """The link has ended; tells the endpoint, once."""
        self._closed = True
        if self._told:
            return
        self._told = True
        self._line.to_worker.clear()
        self._line.forget()
        if endpoint_lives:
            self._endpoint.closed(self)


class MemoryLine:
    """What lies between the two ends of one link."""

    def __init__(
        self,
        gateway_id: GatewayId,
        endpoint: WorkerEndpoint,
        delay_s: Callable[[], float],
        witness: Callable[[GatewayId, WorkerId, ToGateway | ToWorker], None],
        forget: Callable[["MemoryLine"], None],
    ) -> None:
        self.gateway_id = gateway_id
        self.witness = witness
        self.to_worker = Conduit(delay_s)
        self.to_gateway = Conduit(delay_s)
        self.gateway_end = MemoryWorkerLink(self, endpoint)
        self.worker_end = MemoryGatewayLink(self, endpoint)
        self._forget = forget
        self._despair: asyncio.TimerHandle | None = None

    def part(self, silence_s_max: float) -> None:
        """Hold everything; break the line if it is not rejoined in time."""
        if self._despair is None:
            self.to_worker.hold()
            self.to_gateway.hold()
            self._despair = asyncio.get_running_loop().call_later(silence_s_max, self.sever)

    def rejoin(self) -> None:
        """Let everything pass again."""
        if self._despair is not None:
            self._despair.cancel()
            self._despair = None
            self.to_worker.release()
            self.to_gateway.release()

    def sever(self, *, endpoint_lives: bool = True) -> None:
        """End both ends at once; what is on its way is lost."""
        self.rejoin()
        self.gateway_end.ended()
        self.worker_end.ended(endpoint_lives=endpoint_lives)

    def forget(self) -> None:
        """Take the line out of its server's list."""
        self._forget(self)
