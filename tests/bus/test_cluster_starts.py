"""Several NATS servers that start one after another, as pods do."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen

import httpx

from services.bus.nats import connect
from services.bus.settings import BusSettings
from tests.bus.samples import DEADLINE_S, task

NATS_SERVER = Path(sys.executable).parent / "nats-server"
SERVERS = 3
POLL_S = 0.05


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def _server(folder: Path, number: int, ports: list[tuple[int, int, int]]) -> Iterator[None]:
    """Run one server of a cluster: client, route and monitoring ports of all are known to each."""
    client, route, monitor = ports[number]
    routes = ", ".join(f'"nats://127.0.0.1:{other}"' for _, other, _ in ports)
    file = folder / f"{number}.conf"
    file.write_text(
        f"server_name: n{number}\nlisten: 127.0.0.1:{client}\nhttp: 127.0.0.1:{monitor}\n"
        f'jetstream {{ store_dir: "{folder}/{number}" }}\n'
        f"cluster {{ name: c, listen: 127.0.0.1:{route}, routes: [{routes}] }}\n"
    )
    with Popen([NATS_SERVER, "-c", str(file)], stdout=DEVNULL, stderr=DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


async def _is_asked(monitor: int, times: int) -> None:
    """Wait until a server has received so many messages."""
    async with httpx.AsyncClient() as http, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                answer = await http.get(f"http://127.0.0.1:{monitor}/varz")
                if answer.json()["in_msgs"] >= times:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL_S)


async def test_a_process_waits_for_the_rest_of_the_cluster(tmp_path: Path) -> None:
    """With one server of three nothing can be kept; who connects waits, and is served when others came."""
    numbers = _free_ports(3 * SERVERS)
    ports = [(a, b, c) for a, b, c in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)]
    settings = BusSettings(
        url=",".join(f"nats://127.0.0.1:{client}" for client, _, _ in ports),
        namespace="starts",
        replicas=SERVERS,
        request_timeout_s=0.5,
        connect_timeout_s=DEADLINE_S,
    )
    with ExitStack() as running:
        running.enter_context(_server(tmp_path, 0, ports))
        connecting = asyncio.create_task(connect(settings, name="early"))
        await _is_asked(ports[0][2], 2)
        assert not connecting.done()
        for number in (1, 2):
            running.enter_context(_server(tmp_path, number, ports))
        bus = await connecting
        try:
            await bus.queue.enqueue(task("t"))
            assert await bus.queue.waiting_count() == 1
        finally:
            await bus.close()
