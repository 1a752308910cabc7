"""Where a bus story is played: in memory on a virtual clock, or against a real NATS server."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import nats

from services.bus.embedded import EmbeddedNats
from services.bus.memory import MemoryBroker, MemoryBus
from services.bus.nats import connect
from services.bus.port import Bus
from services.bus.settings import BusLimits, BusSettings, EmbeddedSettings
from services.runtime.clock import run_virtual

Join = Callable[[], Awaitable[Bus]]
"""Connects one more client."""

Story = Callable[[Join], Awaitable[None]]


class Arena(Protocol):
    """Plays a story to its end."""

    def play(self, story: Story, limits: BusLimits | None = None) -> None:
        """Run a story with clients that share one bus; all leave at its end."""
        ...


class MemoryArena:
    """Virtual time, no server."""

    def play(self, story: Story, limits: BusLimits | None = None) -> None:
        """Run a story with clients that share one bus; all leave at its end."""

        async def run() -> None:
            broker = MemoryBroker(limits)
            async with AsyncExitStack() as stack:
                count = 0

                async def join() -> Bus:
                    nonlocal count
                    count += 1
                    bus = MemoryBus(broker, f"client-{count}")
                    stack.push_async_callback(bus.close)
                    return bus

                await story(join)

        run_virtual(run())


class NatsArena:
    """One real server for all stories; each story gets a namespace of its own, gone with its end.

    What a story's streams may hold is reserved on the disk: a hundred stories left would not fit a small one.
    """

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedNats(EmbeddedSettings(store_dir=str(folder)))
        self._stories = 0

    def start(self) -> None:
        """Start the server."""
        asyncio.run(self._server.start())

    def stop(self) -> None:
        """Stop the server."""
        asyncio.run(self._server.stop())

    def play(self, story: Story, limits: BusLimits | None = None) -> None:
        """Run a story with clients that share one bus; all leave at its end."""
        self._stories += 1
        settings = BusSettings(
            url=self._server.url, namespace=f"story-{self._stories}", limits=limits or BusLimits()
        )

        async def run() -> None:
            async with AsyncExitStack() as stack:

                async def join() -> Bus:
                    bus = await connect(settings, name="story")
                    stack.push_async_callback(bus.close)
                    return bus

                await story(join)

        try:
            asyncio.run(run())
        finally:
            asyncio.run(_delete_streams(self._server.url, settings.namespace))


async def _delete_streams(url: str, namespace: str) -> None:
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            name = stream.config.name or ""
            if name.startswith(f"{namespace}-"):
                await jetstream.delete_stream(name)
    finally:
        await client.close()
