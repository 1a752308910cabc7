"""The supervisor on the virtual clock: what it notices, what it starts again, what it leaves behind."""

import asyncio
from collections.abc import Callable

from services.cluster.supervision import SupervisionSettings
from services.cluster.supervisor import Question, Supervisor
from services.domain.errors import EngineFailed
from services.runtime.clock import run_virtual

SETTINGS = SupervisionSettings(restarts_max=3, backoff_min_s=0.5, liveness_timeout_s=10.0)
START_S = 5.0
START_TIMEOUT_S = 20.0


class ActedProcess:
    """A process that lives in this loop; a test says what happens to it."""

    def __init__(self, name: str = "decode-0") -> None:
        self.name = name
        self.starts = 0
        self.kills = 0
        self.frozen = False
        self.fails_to_start = False
        self.never_ready = False
        self._ready_at_s = 0.0
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, exit_code: int) -> None:
        """End it."""
        if not self._exit.done():
            self._exit.set_result(exit_code)

    async def start(self) -> None:
        """Begin another life."""
        if self.fails_to_start:
            raise EngineFailed(worker_id=self.name, message="no room")
        loop = asyncio.get_running_loop()
        self.starts += 1
        self.frozen = False
        self._ready_at_s = loop.time() + START_S
        self._exit = loop.create_future()

    async def wait(self) -> int:
        """Wait for its end."""
        return await asyncio.shield(self._exit)

    async def asks(self, question: Question, timeout_s: float) -> bool:
        """Answer, unless frozen."""
        if self.frozen or (question is Question.READY and self.never_ready):
            await asyncio.sleep(timeout_s)
            return False
        return question is Question.LIVE or asyncio.get_running_loop().time() >= self._ready_at_s

    def kill(self) -> None:
        """End it at once."""
        self.kills += 1
        self.end(-9)

    def tail(self) -> str:
        """Last line."""
        return "last words"


def watch(story: Callable[[ActedProcess, list[str], "asyncio.Future[str]"], object]) -> list[str]:
    """Play a story with one process under supervision; returns what the operator was told."""
    told: list[str] = []

    async def play() -> None:
        process = ActedProcess()
        supervisor = Supervisor(SETTINGS, [process], start_timeout_s=START_TIMEOUT_S, tell=told.append)
        running = asyncio.ensure_future(supervisor.run())
        await asyncio.sleep(1)
        outcome = story(process, told, running)
        assert asyncio.iscoroutine(outcome)
        await outcome
        running.cancel()
        await asyncio.wait({running})
        assert asyncio.all_tasks() == {asyncio.current_task()}, "the supervisor left tasks"

    run_virtual(play())
    return told


def test_what_dies_is_started_again_and_told_twice() -> None:
    """Once when it dies, with the cause, and once when it serves again, not when it is merely started."""

    async def story(process: ActedProcess, told: list[str], _: "asyncio.Future[str]") -> None:
        process.end(-9)
        await asyncio.sleep(3)
        assert (process.starts, len(told)) == (1, 1)
        await asyncio.sleep(START_S)

    assert watch(story) == [
        "decode-0 was ended by SIGKILL; starting it again in 0.5 s",
        "decode-0 is back after 5.0 s",
    ]


def test_what_is_left_of_a_former_life_is_killed_first() -> None:
    """A dead worker's engine may live on: it is killed before the next one starts."""

    async def story(process: ActedProcess, _: list[str], __: "asyncio.Future[str]") -> None:
        process.end(1)
        await asyncio.sleep(0.1)
        assert (process.kills, process.starts) == (1, 0)

    assert watch(story) == ["decode-0 ended with exit code 1; starting it again in 0.5 s"]


def test_a_frozen_process_is_killed_and_replaced() -> None:
    """One that exists and answers nothing for the time of the setting is no better than a dead one."""

    async def story(process: ActedProcess, told: list[str], _: "asyncio.Future[str]") -> None:
        process.frozen = True
        await asyncio.sleep(7)
        assert not told
        await asyncio.sleep(20)

    first, second = watch(story)
    assert first.startswith("decode-0 did not answer for 1")
    assert first.endswith("s and was killed; starting it again in 0.5 s")
    assert second.startswith("decode-0 is back after 5.")


def test_a_short_silence_is_forgiven() -> None:
    """A process that answers again before the time is up is left alone."""

    async def story(process: ActedProcess, _: list[str], __: "asyncio.Future[str]") -> None:
        for _round in range(20):
            process.frozen = True
            await asyncio.sleep(6)
            process.frozen = False
            await asyncio.sleep(6)
        assert not process.kills

    assert watch(story) == []


def test_what_dies_again_and_again_ends_the_cluster() -> None:
    """After `restarts_max` restarts the outcome names the process, the cause, the bound and the log."""

    async def story(process: ActedProcess, _: list[str], running: "asyncio.Future[str]") -> None:
        while not running.done():
            process.end(1)
            await asyncio.sleep(1)
        assert process.starts == SETTINGS.restarts_max
        assert running.result() == (
            "decode-0 ended with exit code 1; it was started again 3 times within 600 s; its log ends:\n"
            "last words"
        )

    assert len(watch(story)) == SETTINGS.restarts_max


def test_a_start_that_fails_counts_as_a_death() -> None:
    """Neither a process that cannot begin nor one that never serves is waited for without end."""

    async def story(process: ActedProcess, _: list[str], running: "asyncio.Future[str]") -> None:
        process.fails_to_start = True
        process.end(1)
        await asyncio.sleep(0.7)
        process.fails_to_start, process.never_ready = False, True
        async with asyncio.timeout(1000):
            assert "it was started again 3 times" in await running

    told = watch(story)
    assert told[1] == "decode-0 could not be started again: no room; starting it again in 1 s"
    assert told[2] == "decode-0 was not ready after 20 s and was killed; starting it again in 2 s"


def test_what_was_drained_stays_away() -> None:
    """Exit code 0 is somebody's wish; when nothing is left to watch the supervisor ends without complaint."""

    async def story(process: ActedProcess, _: list[str], running: "asyncio.Future[str]") -> None:
        process.end(0)
        assert await running == ""
        assert not process.starts

    assert watch(story) == ["decode-0 ended in order; it stays away"]


def test_what_is_added_may_die_for_good_without_the_others() -> None:
    """It is started, replaced as often as any other, then given up; the first process goes on."""
    told: list[str] = []
    gone: list[str] = []

    async def play() -> None:
        process, added = ActedProcess(), ActedProcess("worker-7")
        supervisor = Supervisor(SETTINGS, [process], start_timeout_s=START_TIMEOUT_S, tell=told.append)
        running = asyncio.ensure_future(supervisor.run())
        supervisor.add(added, is_running=False, gone=lambda: gone.append(added.name))
        await asyncio.sleep(START_S + 1)
        assert told == ["worker-7 is ready after 5.0 s"]
        for _ in range(SETTINGS.restarts_max + 1):
            added.end(1)
            await asyncio.sleep(20)
        assert (gone, added.starts) == (["worker-7"], 1 + SETTINGS.restarts_max)
        assert "started again 3 times" in told[-1]
        assert not running.done()
        running.cancel()
        await asyncio.wait({running})
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(play())


def test_what_is_let_go_is_not_replaced() -> None:
    """Whether it ends in order, is killed, or was about to be started again."""

    async def play(moment: str) -> tuple[int, list[str]]:
        told: list[str] = []
        gone: list[str] = []
        added = ActedProcess("worker-7")
        supervisor = Supervisor(SETTINGS, [ActedProcess()], start_timeout_s=START_TIMEOUT_S, tell=told.append)
        running = asyncio.ensure_future(supervisor.run())
        supervisor.add(added, is_running=moment != "new", gone=lambda: gone.append(added.name))
        if moment == "new":
            supervisor.release(added)
        elif moment == "dead":
            await asyncio.sleep(1)
            added.end(-9)
            await asyncio.sleep(0.1)
            supervisor.release(added)
        else:
            supervisor.release(added)
            added.end(int(moment))
        await asyncio.sleep(30)
        assert gone == ["worker-7"]
        running.cancel()
        await asyncio.wait({running})
        return added.starts, told

    starts = {moment: run_virtual(play(moment))[0] for moment in ("0", "-9", "dead", "new")}
    assert starts == {"0": 0, "-9": 0, "dead": 0, "new": 0}
