"""The two worlds in which the contract suite runs, and an endpoint that remembers what it heard."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from services.domain.blocks import BlockHash, BlocksStored, KvSnapshot
from services.domain.ids import EngineEpoch, GatewayId, RequestId, WorkerId
from services.domain.link import Accepted, Cancel, ToGateway, ToWorker
from services.link.grpc_client import GrpcDialer
from services.link.grpc_server import GrpcLinkServer
from services.link.memory import MemoryNetwork
from services.link.port import Dialer, GatewayLink, LinkServer, WorkerLink
from services.link.settings import LinkSettings
from services.runtime.clock import run_virtual

DEADLINE_S = 30.0
"""Longest a scenario may take: far more than it needs, so that only a hang is caught."""

GATEWAY = GatewayId("gateway")


class Endpoint:
    """A worker that writes down what its links tell it."""

    def __init__(self, worker_id: str = "worker", block_count: int = 0) -> None:
        self.worker_id = WorkerId(worker_id)
        self.epoch = EngineEpoch(f"{worker_id}-epoch")
        self.events: list[tuple[str, GatewayLink]] = []
        self.messages: list[ToWorker] = []
        self._changed = asyncio.Condition()
        self._waking: set[asyncio.Task[None]] = set()
        hashes = tuple(BlockHash(n) for n in range(block_count))
        self._stored = (BlocksStored(parent=BlockHash(2**64 - 1), hashes=hashes),) if hashes else ()

    @property
    def kinds(self) -> list[str]:
        """What happened to links, in order."""
        return [kind for kind, _ in self.events]

    @property
    def link(self) -> GatewayLink:
        """The link that was opened last."""
        return next(link for kind, link in reversed(self.events) if kind == "opened")

    def opened(self, link: GatewayLink) -> None:
        """Note it."""
        self._note("opened", link)

    def received(self, link: GatewayLink, message: ToWorker) -> None:
        """Note the message."""
        self.messages.append(message)
        self._wake()

    def closed(self, link: GatewayLink) -> None:
        """Note it."""
        self._note("closed", link)

    def snapshot(self) -> KvSnapshot:
        """Everything, as one long run."""
        return KvSnapshot(worker_id=self.worker_id, epoch=self.epoch, sequence=3, stored=self._stored)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something that this endpoint hears."""
        async with self._changed:
            await self._changed.wait_for(reached)

    def _note(self, kind: str, link: GatewayLink) -> None:
        self.events.append((kind, link))
        self._wake()

    def _wake(self) -> None:
        task = asyncio.get_running_loop().create_task(self._notify())
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class World(Protocol):
    """Where links exist."""

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario on this world's loop."""
        ...

    def dialer(self) -> Dialer:
        """A gateway's dialer."""
        ...

    def server(self, name: str = "worker") -> LinkServer:
        """A worker's server."""
        ...

    def silent(self) -> AbstractAsyncContextManager[str]:
        """An address where somebody listens and never answers."""
        ...

    def refused(self) -> str:
        """An address where nobody listens."""
        ...


class MemoryWorld:
    """Everything in one process, on a virtual clock."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(delay_s=lambda _gateway, _worker: 0.001)

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run without waiting."""
        run_virtual(_bounded(scenario))

    def dialer(self) -> Dialer:
        """A dialer of the network."""
        return self.network.dialer()

    def server(self, name: str = "worker") -> LinkServer:
        """A server of the network."""
        return self.network.server(name)

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[str]:
        """An address that swallows everything."""
        self.network.silence("silent:1")
        yield "silent:1"

    def refused(self) -> str:
        """An address that nobody took."""
        return "nobody:1"


class GrpcWorld:
    """Real connections over loopback."""

    def __init__(self, settings: LinkSettings | None = None) -> None:
        self.settings = settings or LinkSettings()

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run on the real clock, and find tasks that were left behind."""
        asyncio.run(_leaving_nothing(_bounded(scenario)))

    def dialer(self) -> Dialer:
        """A gRPC dialer."""
        return GrpcDialer(self.settings)

    def server(self, name: str = "worker") -> LinkServer:
        """A gRPC server on a free port."""
        return GrpcLinkServer(self.settings)

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[str]:
        """A port that accepts connections and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield f"127.0.0.1:{listening.getsockname()[1]}"

    def refused(self) -> str:
        """A port that was free a moment ago."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        return f"127.0.0.1:{port}"


async def _bounded(scenario: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await scenario


async def _leaving_nothing(scenario: Coroutine[Any, Any, None]) -> None:
    await scenario
    ours = {t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("link:")}
    assert not ours, f"tasks left behind: {ours}"


@asynccontextmanager
async def joined(
    world: World, endpoint: Endpoint, *, gateway_id: GatewayId = GATEWAY
) -> AsyncIterator[WorkerLink]:
    """Serve an endpoint and attach one gateway; close both at the end."""
    server = world.server()
    address = await server.serve(endpoint)
    try:
        link = await world.dialer().connect(address, gateway_id=gateway_id, timeout_s=10.0)
        try:
            yield link
        finally:
            await link.close()
    finally:
        await server.close()


def cancel(n: int) -> Cancel:
    """A numbered message to a worker."""
    return Cancel(request_id=RequestId(f"r{n}"))


def accepted(n: int) -> Accepted:
    """A numbered message to a gateway."""
    return Accepted(request_id=RequestId(f"r{n}"))


async def read(link: WorkerLink, count: int) -> list[ToGateway]:
    """Read so many messages, or fewer if the link ends before."""
    messages: list[ToGateway] = []
    async for message in link.messages():
        messages.append(message)
        if len(messages) == count:
            break
    return messages


async def collect(link: WorkerLink) -> list[ToGateway]:
    """Read a link to its end."""
    return [message async for message in link.messages()]
