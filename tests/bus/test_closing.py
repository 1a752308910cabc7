"""A client closes whatever became of its connection."""

import asyncio
from pathlib import Path

import uvloop
from nats.aio.transport import TcpTransport

from services.bus.embedded import EmbeddedNats
from services.bus.nats.connection import open_connection
from services.bus.settings import BusSettings, EmbeddedSettings


async def closed_in_the_moment_of_a_loss(folder: Path) -> set[str]:
    """Close with something to send over a connection that just broke; names of the tasks that are left."""
    server = EmbeddedNats(EmbeddedSettings(port=0, store_dir=str(folder)))
    url = await server.start()
    try:
        before = asyncio.all_tasks()
        connection = await open_connection(BusSettings(url=url), name="closing")
        await connection.client.subscribe("some.subject")
        transport = connection.client._transport
        assert isinstance(transport, TcpTransport)
        assert transport._io_writer is not None
        transport._io_writer.transport.abort()
        await connection.client.publish("some.subject", b"too late")
        await connection.close()
        assert connection.client.is_closed
        await asyncio.sleep(0)
        return {task.get_name() for task in asyncio.all_tasks() - before}
    finally:
        await server.stop()


def test_a_connection_that_breaks_in_the_same_moment_is_closed(tmp_path: Path) -> None:
    """On the gateway's event loop, which raises where asyncio's own tells its log."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(closed_in_the_moment_of_a_loss(tmp_path)) == set()
