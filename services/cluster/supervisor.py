"""The supervisor: watches processes, has dead and frozen ones started again, and says so.

Comes in: processes that serve. Goes out: lines for the operator, and at last the one that died too often.
Invariant: a process is started again only when none of its former life is left; every wait ends.
Not here: what is decided (`services.cluster.supervision`), what a process is (`services.cluster.processes`).
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, assert_never

from services.cluster.supervision import GiveUp, Leave, Restart, SupervisionSettings, decide, silence_s
from services.domain.errors import ServingError

STARTING_POLL_S = 0.2
"""Time between questions to a process that starts; seconds."""

KILLED = -int(signal.SIGKILL)


class Question(StrEnum):
    """What a process is asked."""

    LIVE = "live"
    READY = "ready"


class Watched(Protocol):
    """A process that can be asked, killed and started again."""

    @property
    def name(self) -> str:
        """Name in the words for the operator."""
        ...

    async def start(self) -> None:
        """Start it, with the settings and ports it had before.

        Raises:
            ServingError: it could not even begin.
        """
        ...

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        ...

    async def asks(self, question: Question, timeout_s: float) -> bool:
        """Ask the process itself; False when it does not say yes in time."""
        ...

    def kill(self) -> None:
        """Kill it and whatever it started, also when only that is left."""
        ...

    def tail(self) -> str:
        """Last lines of its log."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    exit_code: int
    cause: str


class Supervisor:
    """Keeps processes running."""

    def __init__(
        self,
        settings: SupervisionSettings,
        watched: Sequence[Watched] = (),
        *,
        start_timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """Put it together; nothing is watched yet.

        Args:
            settings: bounds.
            watched: processes that serve now; more are given to `watch` and `add`.
            start_timeout_s: longest wait until one that was started again serves, seconds.
            tell: called with a line about each end and each return.
        """
        self._settings = settings
        self._start_timeout_s = start_timeout_s
        self._tell = tell
        self._keepers: dict[asyncio.Task[str], Callable[[], None] | None] = {}
        self._released: set[str] = set()
        self._change = asyncio.Event()
        self._watched = list(watched)

    async def run(self) -> str:
        """Watch until one process dies too often, or none is left.

        Returns:
            What the operator has to know: which process, why, the end of its log; empty when all ended in
            order.
        """
        for process in self._watched:
            self._begin(self._keep(process, is_running=True), None)
        try:
            while self._keepers:
                await self._change.wait()
                self._change.clear()
                for keeper in [keeper for keeper in self._keepers if keeper.done()]:
                    gone, failure = self._keepers.pop(keeper), keeper.result()
                    if gone is not None:
                        gone()
                        if failure:
                            self._tell(f"{failure}\nthe others go on")
                    elif failure:
                        return failure
            return ""
        finally:
            await self.close()

    async def close(self) -> None:
        """Watch nobody any more; idempotent."""
        keepers = tuple(self._keepers)
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    def watch(self, process: Watched) -> None:
        """Keep one more process running that serves now, once `run` runs; without it the others end too."""
        self._watched.append(process)

    def add(self, process: Watched, *, is_running: bool, gone: Callable[[], None]) -> None:
        """Keep one more process running from now on; when it dies too often the others go on without it.

        Args:
            process: not known yet.
            is_running: whether it serves already; otherwise it is started.
            gone: called when it ended for good, while `run` runs.
        """
        self._begin(self._keep(process, is_running=is_running), gone)

    def release(self, process: Watched) -> None:
        """Let a process that was added end, however it does."""
        self._released.add(process.name)

    def _begin(self, keeping: Coroutine[None, None, str], gone: Callable[[], None] | None) -> None:
        keeper = asyncio.ensure_future(keeping)
        self._keepers[keeper] = gone
        keeper.add_done_callback(lambda _: self._change.set())

    async def _keep(self, process: Watched, *, is_running: bool) -> str:
        """Keep one process running; returns why that ended, empty when it ended in order."""
        loop = asyncio.get_running_loop()
        restarts_s: tuple[float, ...] = ()
        ending = await (self._until_ended(process) if is_running else self._start(process, again=False))
        while True:
            process.kill()  # what it started may have outlived it
            if process.name in self._released:
                self._tell(f"{process.name} {ending.cause}, as it was asked to")
                return ""
            verdict = decide(
                ending.exit_code, restarts_s=restarts_s, now_s=loop.time(), settings=self._settings
            )
            match verdict:
                case Leave():
                    self._tell(f"{process.name} {ending.cause}; it stays away")
                    return ""
                case GiveUp(reason=reason):
                    return f"{process.name} {ending.cause}; {reason}; its log ends:\n{process.tail()}"
                case Restart(after_s=after_s):
                    restarts_s = verdict.restarts_s
                    self._tell(f"{process.name} {ending.cause}; starting it again in {after_s:g} s")
                    await asyncio.sleep(after_s)
                    ending = await self._start(process, again=True)
                case _:
                    assert_never(verdict)

    async def _start(self, process: Watched, *, again: bool) -> _Ending:
        """Start a process, or start it again, and watch it to its end."""
        began_s = asyncio.get_running_loop().time()
        if process.name in self._released:
            return _Ending(exit_code=0, cause="was not started")
        try:
            await process.start()
        except ServingError as error:
            return _Ending(exit_code=1, cause=f"could not be started{' again' if again else ''}: {error}")
        if process.name in self._released:
            return await _killed(process, "was let go before it served")
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while not ended.done() and not await self._ask(process, Question.READY):
                    await asyncio.wait({ended}, timeout=STARTING_POLL_S)
        except TimeoutError:
            return await _killed(process, f"was not ready after {self._start_timeout_s:g} s and was killed")
        finally:
            ended.cancel()
        if not ended.done():
            took_s = asyncio.get_running_loop().time() - began_s
            self._tell(f"{process.name} is {'back' if again else 'ready'} after {took_s:.1f} s")
        return await self._until_ended(process)

    async def _until_ended(self, process: Watched) -> _Ending:
        """Wait until a process that serves ends, or answers nothing for too long and is killed."""
        settings, loop = self._settings, asyncio.get_running_loop()
        ended = asyncio.ensure_future(process.wait())
        silent_s, asked_s = 0.0, loop.time()
        try:
            while True:
                await asyncio.wait({ended}, timeout=settings.liveness_period_s)
                if ended.done():
                    return _Ending(exit_code=ended.result(), cause=_describe(ended.result()))
                if settings.liveness_timeout_s is None:
                    continue
                answered = await self._ask(process, Question.LIVE)
                took_s, asked_s = loop.time() - asked_s, loop.time()
                silent_s = silence_s(silent_s, answered=answered, took_s=took_s, settings=settings)
                if silent_s >= settings.liveness_timeout_s and not ended.done():
                    return await _killed(process, f"did not answer for {silent_s:.0f} s and was killed")
        finally:
            ended.cancel()

    async def _ask(self, process: Watched, question: Question) -> bool:
        return await process.asks(question, self._settings.liveness_period_s)


async def _killed(process: Watched, cause: str) -> _Ending:
    process.kill()
    await process.wait()
    return _Ending(exit_code=KILLED, cause=cause)


def _describe(exit_code: int) -> str:
    if exit_code == 0:
        return "ended in order"
    if exit_code > 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"
