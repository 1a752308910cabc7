"""The process of one replica: started until it serves, asked whether it lives, ended in order.

Comes in: a `ProcessSpec`. Goes out: a running process, or why there is none. Invariant: after a failed start,
a failed check or `end` nothing that it started runs; every wait ends. Not here: Ray; when a replica is
started again (Serve).
"""

import asyncio
import signal
from pathlib import Path

import httpx

from services.cluster.plan import ProcessSpec
from services.cluster.processes import Child
from services.cluster.supervision import SupervisionSettings, silence_s
from services.cluster.supervisor import Question
from services.domain.errors import EngineFailed

STARTING_POLL_S = 0.1
"""Time between questions to a process that starts; seconds."""


class ReplicaProcess:
    """One process that ends with its replica."""

    def __init__(self, spec: ProcessSpec, folder: Path, settings: SupervisionSettings) -> None:
        """Describe it; nothing runs yet.

        Args:
            spec: what to run.
            folder: where its settings and its log go.
            settings: how long it may be silent.
        """
        self._settings = settings
        self._http = httpx.AsyncClient(trust_env=False)
        self._child = Child(spec, folder, self._http)
        self._silent_s = 0.0
        self._asked_s = 0.0

    @property
    def log_file(self) -> Path:
        """Where it writes its log."""
        return self._child.log_file

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports that it told, once it serves."""
        return self._child.ports or ()

    async def start(self, timeout_s: float) -> None:
        """Start it and wait until it serves.

        Args:
            timeout_s: longest wait.

        Raises:
            EngineFailed: it ended or was too slow; the message holds the end of its log.
        """
        try:
            await self._child.start()
            ended = asyncio.ensure_future(self._child.wait())
            try:
                async with asyncio.timeout(timeout_s):
                    while not await self._asks(Question.READY):
                        if ended.done():
                            raise self._failure(f"ended with exit code {ended.result()}")
                        await asyncio.wait({ended}, timeout=STARTING_POLL_S)
            except TimeoutError:
                raise self._failure(f"was not ready after {timeout_s:g} s") from None
            finally:
                ended.cancel()
        except BaseException:
            self._child.kill()
            raise
        self._asked_s = asyncio.get_running_loop().time()

    async def check(self) -> None:
        """Ask it whether it lives; one that is silent for a moment is forgiven.

        Raises:
            EngineFailed: it ended, or was silent for `supervision.liveness_timeout_s` and was killed.
        """
        if self._child.exit_code is not None:
            self._child.kill()  # what it started may have outlived it
            raise self._failure(f"ended with exit code {self._child.exit_code}")
        answered = await self._asks(Question.LIVE)
        now_s = asyncio.get_running_loop().time()
        took_s, self._asked_s = now_s - self._asked_s, now_s
        self._silent_s = silence_s(self._silent_s, answered=answered, took_s=took_s, settings=self._settings)
        patience_s = self._settings.liveness_timeout_s
        if patience_s is not None and self._silent_s >= patience_s:
            self._child.kill()
            raise self._failure(f"did not answer for {self._silent_s:.0f} s and was killed")

    async def end(self, timeout_s: float) -> None:
        """Have it drain and end; kill what is left after a while. Idempotent.

        Args:
            timeout_s: longest wait.
        """
        self._child.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self._child.wait()
        except TimeoutError:
            pass
        self._child.kill()
        await self._http.aclose()

    async def _asks(self, question: Question) -> bool:
        return await self._child.asks(question, self._settings.liveness_period_s)

    def _failure(self, what: str) -> EngineFailed:
        name = self._child.name
        return EngineFailed(
            worker_id=name, message=f"{name} {what}; its log ({self.log_file}) ends:\n{self._child.tail()}"
        )
