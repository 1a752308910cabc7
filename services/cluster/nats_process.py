"""The embedded NATS server as a process that the supervisor watches.

Comes in: a server that runs. Goes out: a `services.cluster.supervisor.Watched`.
Invariant: it comes back on the same port with the same store, so that every client finds it again.
"""

import asyncio
from pathlib import Path

from services.bus.embedded import EmbeddedNats
from services.cluster.supervisor import Question

POLL_S = 0.1
TAIL_CHARS = 2000


class NatsProcess:
    """Watches over one embedded server."""

    name = "nats"

    def __init__(self, server: EmbeddedNats, log_file: Path) -> None:
        self._server = server
        self._log_file = log_file

    async def start(self) -> None:
        """Start it again; returns when it answers.

        Raises:
            ConfigurationInvalid: its port was taken meanwhile.
            BusUnavailable: it did not answer in time.
        """
        await self._server.start()

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        while (code := self._server.exit_code) is None:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(POLL_S)
        return code

    async def asks(self, question: Question, timeout_s: float) -> bool:
        """Whether it greets a client in time: it is ready as soon as it lives."""
        del question
        return await self._server.answers(timeout_s)

    def kill(self) -> None:
        """Kill it, if it runs."""
        self._server.kill()

    def tail(self) -> str:
        """Last lines of its log."""
        try:
            return self._log_file.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARS:].rstrip()
        except OSError as error:
            return f"(no log: {error.strerror})"
