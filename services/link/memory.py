"""Links inside one process, with the faults of a network.

Comes in: endpoints that serve and gateways that connect, on one event loop. Goes out: the same behaviour
as over the network, without sockets: deterministic, and on a virtual clock if the loop has one.
Invariant: as in `services.link.port`; messages cross as the frozen values they are.
Not here: the ends of a link (`services.link.memory_ends`).
"""

import asyncio
from collections.abc import Callable

from services.domain.errors import ConfigurationInvalid, InternalFault, WorkerLost
from services.domain.ids import GatewayId, WorkerId
from services.domain.link import ToGateway, ToWorker
from services.link.memory_ends import MemoryLine, MemoryWorkerLink
from services.link.port import WorkerEndpoint

Pair = tuple[GatewayId, WorkerId]

SILENCE_S_MAX = 10.0
"""How long the ends of a parted link believe in each other, as keepalive does by default."""


def _unwatched(_gateway_id: GatewayId, _worker_id: WorkerId, _message: ToGateway | ToWorker) -> None:
    """Nobody watches the messages."""


def _no_delay(_gateway_id: GatewayId, _worker_id: WorkerId) -> float:
    return 0.0


class MemoryNetwork:
    """What joins gateways and workers; a simulator breaks it on purpose.

    Attributes:
        witness: told of every message that arrives at either end.
    """

    def __init__(
        self,
        *,
        delay_s: Callable[[GatewayId, WorkerId], float] = _no_delay,
        silence_s_max: float = SILENCE_S_MAX,
    ) -> None:
        """Make a network that works.

        Args:
            delay_s: one-way delay, s; asked for each message, so that a simulator may draw it.
            silence_s_max: how long a partition lasts before both ends take each other for dead, s.
        """
        self.witness: Callable[[GatewayId, WorkerId, ToGateway | ToWorker], None] = _unwatched
        self._delay_s = delay_s
        self._silence_s_max = silence_s_max
        self._servers: dict[str, MemoryLinkServer] = {}
        self._silent: set[str] = set()
        self._parted: dict[Pair, asyncio.Event] = {}

    def server(self, host: str) -> "MemoryLinkServer":
        """Make the server of one worker; `host` is its name in this network."""
        return MemoryLinkServer(self, host)

    def dialer(self) -> "MemoryDialer":
        """Make a dialer; one serves any number of gateways."""
        return MemoryDialer(self)

    def silence(self, address: str) -> None:
        """Let an address swallow attempts to connect, as a machine does that hangs."""
        self._silent.add(address)

    def partition(self, gateway_id: GatewayId, worker_id: WorkerId) -> None:
        """Part two processes: nothing arrives until `heal`; their link breaks if that takes too long."""
        self._parted.setdefault((gateway_id, worker_id), asyncio.Event())
        for line in self._lines(gateway_id, worker_id):
            line.part(self._silence_s_max)

    def heal(self, gateway_id: GatewayId, worker_id: WorkerId) -> None:
        """End a partition; what was on its way arrives if the link still stands."""
        healed = self._parted.pop((gateway_id, worker_id), None)
        if healed is not None:
            healed.set()
        for line in self._lines(gateway_id, worker_id):
            line.rejoin()

    def break_link(self, gateway_id: GatewayId, worker_id: WorkerId) -> None:
        """Break a link: both ends see it now, what was on its way is lost."""
        for line in self._lines(gateway_id, worker_id):
            line.sever()

    def crash_worker(self, worker_id: WorkerId) -> None:
        """Let a worker's process die: gateways see their links end, its endpoint hears nothing more."""
        for address, server in tuple(self._servers.items()):
            if server.endpoint is not None and server.endpoint.worker_id == worker_id:
                del self._servers[address]
                server.crash()

    def crash_gateway(self, gateway_id: GatewayId) -> None:
        """Let a gateway's process die: workers see its links close."""
        for server in self._servers.values():
            line = server.lines.get(gateway_id)
            if line is not None:
                line.sever()

    def listen(self, address: str, server: "MemoryLinkServer") -> None:
        """Take an address.

        Raises:
            ConfigurationInvalid: it is taken.
        """
        if address in self._servers:
            raise ConfigurationInvalid(key="link.port", message=f"link.port: {address} is in use")
        self._servers[address] = server

    def forget(self, address: str) -> None:
        """Free an address."""
        self._servers.pop(address, None)

    async def find(self, address: str, gateway_id: GatewayId) -> "MemoryLinkServer":
        """Travel to an address; takes for ever when it hangs.

        Raises:
            WorkerLost: nobody listens there.
        """
        if address in self._silent:
            await asyncio.Event().wait()
        server = self._servers.get(address)
        if server is not None and server.endpoint is not None:
            await self.travel(gateway_id, server.endpoint.worker_id)
            server = self._servers.get(address)
        if server is None or server.endpoint is None:
            raise WorkerLost(worker_id=address, message=f"cannot connect to {address}: nobody listens")
        return server

    async def travel(self, gateway_id: GatewayId, worker_id: WorkerId) -> None:
        """Take the time of one message; longer while the two are parted."""
        while (healed := self._parted.get((gateway_id, worker_id))) is not None:
            await healed.wait()
        await asyncio.sleep(self._delay_s(gateway_id, worker_id))

    def delay_between(self, gateway_id: GatewayId, worker_id: WorkerId) -> Callable[[], float]:
        """Bind the delay of one pair."""
        return lambda: self._delay_s(gateway_id, worker_id)

    def _lines(self, gateway_id: GatewayId, worker_id: WorkerId) -> list[MemoryLine]:
        return [
            server.lines[gateway_id]
            for server in self._servers.values()
            if server.endpoint is not None
            and server.endpoint.worker_id == worker_id
            and gateway_id in server.lines
        ]


class MemoryDialer:
    """Opens links in memory."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    async def connect(self, address: str, *, gateway_id: GatewayId, timeout_s: float) -> MemoryWorkerLink:
        """Open a link and exchange `Hello` and `Welcome`.

        Raises:
            WorkerLost: nobody answered in time.
        """
        line: MemoryLine | None = None
        try:
            async with asyncio.timeout(timeout_s):
                server = await self._network.find(address, gateway_id)
                line = server.attach(gateway_id)
                await self._network.travel(gateway_id, line.gateway_end.worker_id)
        except TimeoutError:
            message = f"no answer from {address} within {timeout_s:.3g} s"
            raise WorkerLost(worker_id=address, message=message) from None
        else:
            established, line = line.gateway_end, None
            return established
        finally:
            if line is not None:
                await line.gateway_end.close()


class MemoryLinkServer:
    """How a worker is reached in memory."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self._network = network
        self._address = f"{host}:1"
        self.endpoint: WorkerEndpoint | None = None
        self.lines: dict[GatewayId, MemoryLine] = {}
        """Open links, by gateway."""

    async def serve(self, endpoint: WorkerEndpoint) -> str:
        """Start listening; returns the address (host:port) that gateways connect to.

        Raises:
            ConfigurationInvalid: another server of this network has the host.
            InternalFault: it listens already.
        """
        if self.endpoint is not None:
            raise InternalFault(message="the link server listens already")
        self._network.listen(self._address, self)
        self.endpoint = endpoint
        return self._address

    async def close(self) -> None:
        """Close all links and stop listening; idempotent."""
        if self.endpoint is None:
            return
        self._network.forget(self._address)
        for line in tuple(self.lines.values()):
            line.worker_end.end()
        self.endpoint = None

    def attach(self, gateway_id: GatewayId) -> MemoryLine:
        """Open a link; an older one of the same gateway is closed first.

        Raises:
            WorkerLost: the server stopped.
        """
        endpoint = self.endpoint
        if endpoint is None:
            raise WorkerLost(worker_id=self._address, message=f"{self._address} stopped")
        older = self.lines.get(gateway_id)
        if older is not None:
            older.worker_end.end()
        delay_s = self._network.delay_between(gateway_id, endpoint.worker_id)
        line = MemoryLine(gateway_id, endpoint, delay_s, self._network.witness, self._forget)
        self.lines[gateway_id] = line
        endpoint.opened(line.worker_end)
        return line

    def crash(self) -> None:
        """Die: gateways see their links end, the endpoint hears nothing more."""
        self.endpoint = None
        for line in tuple(self.lines.values()):
            line.sever(endpoint_lives=False)

    def _forget(self, line: MemoryLine) -> None:
        if self.lines.get(line.gateway_id) is line:
            del self.lines[line.gateway_id]
