"""The prefill queue: what ends a task's life, and how much fits."""

import asyncio

import pytest

from services.bus.settings import BusLimits
from services.domain.errors import BodyTooLarge, Saturated
from services.domain.ids import WorkerId
from tests.bus.arenas import Arena, Join
from tests.bus.samples import DEADLINE_S, first, task, until, until_empty

WORKER = WorkerId("worker-1")


def test_a_task_ends_at_its_deadline(arena: Arena) -> None:
    """An expired task is shown to nobody, told as removed, and leaves the server by itself."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            removed: list[str] = []
            view.on_removed(removed.append)
            await gateway.queue.enqueue(task("brief", deadline_s=0.8))
            await gateway.queue.enqueue(task("long", deadline_s=60))
            queued = await until(view, lambda tasks: len(tasks) == 2)
            assert queued[0].record.task_id == "brief"
            await until(view, lambda tasks: len(tasks) == 1)
            assert removed == ["brief"]
            assert await worker.queue.claim(queued[0], WORKER) is None
            async with asyncio.timeout(DEADLINE_S):
                while await gateway.queue.waiting_count() > 1:
                    await view.changed(0.2)

    arena.play(story)


def test_an_expired_task_is_never_claimed_even_if_the_server_still_has_it(arena: Arena) -> None:
    """What was seen before the deadline cannot be claimed behind it."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            await gateway.queue.enqueue(task("t", deadline_s=0.3))
            queued = await first(view)
            await until_empty(view)
            assert await worker.queue.claim(queued, WORKER) is None

    arena.play(story)


def test_a_task_without_deadline_ends_at_the_greatest_age(arena: Arena) -> None:
    """Nothing lives for ever, whoever forgot it."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            await gateway.queue.enqueue(task("t", deadline_s=None))
            await first(view)
            await until_empty(view)
            async with asyncio.timeout(DEADLINE_S):
                while await gateway.queue.waiting_count():
                    await view.changed(0.2)

    arena.play(story, BusLimits(task_age_max_s=1.0))


def test_renewal_does_not_prolong_a_deadline(arena: Arena) -> None:
    """A claim is written again and again; the task ends when its client gives up all the same."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            await gateway.queue.enqueue(task("t", deadline_s=1.5))
            claimed = await worker.queue.claim(await first(view), WORKER)
            while claimed is not None:
                await view.changed(0.3)
                claimed = await worker.queue.renew(claimed)
            assert view.tasks() == ()
            late = await join()
            async with late.queue.view() as late_view:
                await until_empty(late_view)

    arena.play(story)


def test_a_late_reader_sees_the_time_that_is_left(arena: Arena) -> None:
    """Each write carries what is left of the deadline, so that a newcomer does not start it anew."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            await gateway.queue.enqueue(task("t", deadline_s=30))
            queued = await first(view)
            await view.changed(0.01)
            assert not await view.changed(0.5)
            queued = await first(view)
            assert queued.waited_s >= 0.5
            assert queued.record.deadline_s == 30
            claimed = await worker.queue.claim(queued, WORKER)
            assert claimed is not None
            assert claimed.waited_s >= 0.5
            assert claimed.task.record == queued.record
            late = await join()
            async with late.queue.view() as late_view:
                shown = late_view.tasks()[0].record
                assert shown.deadline_s is not None
                assert 20 < shown.deadline_s <= 29.5
                assert shown.ttft_target_s <= 1.5
                assert late_view.tasks()[0].waited_s < 10

    arena.play(story)


def test_a_full_queue_says_so_and_takes_again_when_there_is_room(arena: Arena) -> None:
    """The bound is exact: the task behind the last place is refused, nothing of it is left behind."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            for number in range(5):
                await gateway.queue.enqueue(task(f"t{number}"))
            for extra in ("x", "y"):
                with pytest.raises(Saturated) as refused:
                    await gateway.queue.enqueue(task(extra))
                assert refused.value.retry_after_s > 0
            await until(view, lambda tasks: {t.record.task_id for t in tasks} == {f"t{n}" for n in range(5)})
            assert await gateway.queue.waiting_count() == 5
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            with pytest.raises(Saturated):
                await gateway.queue.enqueue(task("z"))
            assert await worker.queue.complete(claimed)
            await gateway.queue.enqueue(task("fits"))
            await until(view, lambda tasks: "fits" in {t.record.task_id for t in tasks})
            for number in range(30):
                with pytest.raises(Saturated):
                    await gateway.queue.enqueue(task(f"more{number}"))
            assert await gateway.queue.waiting_count() == 5

    arena.play(story, BusLimits(queue_tasks_max=5))


def test_the_places_of_finished_tasks_are_free_at_once(arena: Arena) -> None:
    """Marks of removed tasks take no room: many times the bound pass through a small queue."""

    async def story(join: Join) -> None:
        gateway = await join()
        for number in range(60):
            await gateway.queue.enqueue(task(f"t{number}"))
            assert await gateway.queue.cancel(task(f"t{number}").record.task_id)
        assert await gateway.queue.waiting_count() == 0

    arena.play(story, BusLimits(queue_tasks_max=3))


def test_a_prompt_of_a_quarter_million_tokens_passes(arena: Arena) -> None:
    """A megabyte of body arrives as it was sent."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        large = task("large", prompt_tokens=250_000)
        async with worker.queue.view() as view:
            await gateway.queue.enqueue(large)
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            assert claimed.task.request == large.request

    arena.play(story)


def test_a_larger_body_is_refused_with_its_limit(arena: Arena) -> None:
    """What no message can carry is rejected before anything is written, and the error says the limit."""
    limits = BusLimits(body_bytes_max=100_000)

    async def story(join: Join) -> None:
        gateway = await join()
        with pytest.raises(BodyTooLarge) as refused:
            await gateway.queue.enqueue(task("huge", prompt_tokens=30_000))
        assert refused.value.limit_bytes == 100_000
        assert await gateway.queue.waiting_count() == 0

    arena.play(story, limits)


def test_a_view_says_when_nothing_changes(arena: Arena) -> None:
    """`changed` tells each change once and is False when its time is over."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            assert not await view.changed(0.05)
            await gateway.queue.enqueue(task("t"))
            await first(view)
            await view.changed(0.2)
            assert not await view.changed(0.2)
            await gateway.queue.cancel(task("t").record.task_id)
            assert await view.changed(DEADLINE_S)
            assert view.get(task("t").record.task_id) is None

    arena.play(story)
