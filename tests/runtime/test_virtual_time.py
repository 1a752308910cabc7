"""The virtual clock: hours pass at once, a deadlock is an error, threads are part of the run."""

import asyncio

import pytest

from services.runtime.clock import DeadlockError, LoopClock, run_virtual
from services.runtime.tasks import Nursery


def test_an_hour_passes_as_soon_as_nobody_has_anything_to_do() -> None:
    """Sleeps end in order, and the clock shows the time they took."""

    async def main() -> tuple[list[int], float]:
        ended: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(3600 * number)
            ended.append(number)

        await asyncio.gather(one(3), one(1), one(2))
        return ended, LoopClock().now_s()

    ended, now_s = run_virtual(main())
    assert ended == [1, 2, 3]
    assert now_s == pytest.approx(3 * 3600)


def test_a_wait_that_nothing_can_end_is_an_error() -> None:
    """Real time would stand still; virtual time says so."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError):
        run_virtual(main())


def test_work_for_a_thread_is_done_at_once() -> None:
    """A call handed to a thread takes no virtual time and its error comes back."""

    async def main() -> int:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(lambda: 42)

    assert run_virtual(main()) == 42


def test_a_nursery_leaves_no_task_and_tells_failures() -> None:
    """After close nothing runs; a task that failed was reported once."""

    async def main() -> tuple[int, list[BaseException]]:
        failures: list[BaseException] = []
        nursery = Nursery("test", on_failure=failures.append)

        async def fail() -> None:
            raise ValueError("on purpose")

        nursery.start(fail(), "fail")
        nursery.start(asyncio.sleep(3600), "sleep")
        await asyncio.sleep(1)
        await nursery.close()
        with pytest.raises(RuntimeError):
            nursery.start(asyncio.sleep(0), "late")
        return len(nursery), failures

    left, failures = run_virtual(main())
    assert left == 0
    assert [type(f) for f in failures] == [ValueError]
