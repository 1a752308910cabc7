"""The prefill queue: one owner at a time, until the work is done."""

import asyncio

from services.bus.settings import BusLimits
from services.domain.ids import WorkerId
from services.domain.task import Claim, ClaimedTask
from tests.bus.arenas import Arena, Join
from tests.bus.samples import first, task, until, until_empty

WORKER = WorkerId("worker-1")
OTHER = WorkerId("worker-2")
SHORT_CLAIMS = BusLimits(claim_ttl_s=1.0)
LASTING_CLAIMS = BusLimits(claim_ttl_s=300.0)
"""Longer than a race takes on a machine that does much else."""


def test_of_many_claimants_exactly_one_wins(arena: Arena) -> None:
    """Compare-and-set: sixteen workers that see the same task get it once, with its whole request.

    A slow worker's first sight may be the winner's claim already: the server keeps the newest record only.
    """

    async def story(join: Join) -> None:
        gateway = await join()
        workers = [await join() for _ in range(16)]
        ready = asyncio.Semaphore(0)

        async def race(index: int) -> ClaimedTask | None:
            async with workers[index].queue.view() as view:
                ready.release()
                (queued,) = await until(view, lambda tasks: len(tasks) == 1)
                if queued.claim is not None:
                    return None
                return await workers[index].queue.claim(queued, WorkerId(f"worker-{index}"))

        for number in range(5):
            wanted = task(f"t{number}")
            races = [asyncio.create_task(race(i)) for i in range(16)]
            for _ in races:
                await ready.acquire()
            await gateway.queue.enqueue(wanted)
            won = [c for c in await asyncio.gather(*races) if c is not None]
            assert len(won) == 1
            assert won[0].task.request == wanted.request
            assert won[0].claim.attempt == 1
            assert await gateway.queue.complete(won[0])

    arena.play(story, LASTING_CLAIMS)


def test_a_view_is_complete_when_entered(arena: Arena) -> None:
    """Whoever opens a view sees all that waits and who holds it, before anything else happens."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        for number in range(20):
            await gateway.queue.enqueue(task(f"t{number}", priority=number))
        async with worker.queue.view() as view:
            held = view.get(task("t3").record.task_id)
            assert held is not None
            assert await worker.queue.claim(held, WORKER) is not None
            await until(view, lambda tasks: any(t.claim for t in tasks))
            gone = view.get(task("t5").record.task_id)
            assert gone is not None
            await gateway.queue.cancel(gone.record.task_id)
            await until(view, lambda tasks: len(tasks) == 19)
        late = await join()
        async with late.queue.view() as view:
            shown = {t.record.task_id: t for t in view.tasks()}
            assert set(shown) == {f"t{n}" for n in range(20)} - {"t5"}
            assert all(shown[name].record.priority == int(name[1:]) for name in shown)
            claims = {name: t.claim for name, t in shown.items() if t.claim is not None}
            assert claims == {"t3": Claim(worker_id=WORKER, attempt=1)}

    arena.play(story)


def test_an_unrenewed_claim_ends_and_the_next_is_attempt_two(arena: Arena) -> None:
    """A dead worker's task becomes claimable again, and what it does later has no effect."""

    async def story(join: Join) -> None:
        gateway, worker, other = await join(), await join(), await join()
        await gateway.queue.enqueue(task("t"))
        async with worker.queue.view() as view, other.queue.view() as other_view:
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            await until(other_view, lambda tasks: tasks[0].claim is not None)
            again = await first(other_view)
            assert again.attempts == 1
            second = await other.queue.claim(again, OTHER)
            assert second is not None
            assert second.claim == Claim(worker_id=OTHER, attempt=2)
            assert await worker.queue.renew(claimed) is None
            assert not await worker.queue.complete(claimed)
            assert await other.queue.complete(second)
            await until_empty(view)

    arena.play(story, SHORT_CLAIMS)


def test_renewal_keeps_a_claim_beyond_its_time_to_live(arena: Arena) -> None:
    """A worker that renews within the time to live never loses its claim."""

    async def story(join: Join) -> None:
        gateway, worker, other = await join(), await join(), await join()
        await gateway.queue.enqueue(task("t"))
        async with worker.queue.view() as view, other.queue.view() as other_view:
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            await until(other_view, lambda tasks: tasks[0].claim is not None)
            for _ in range(6):
                assert not await other_view.changed(0.4) or other_view.tasks()[0].claim is not None
                renewed = await worker.queue.renew(claimed)
                assert renewed is not None
                assert renewed.claim == claimed.claim
                claimed = renewed
            assert other_view.tasks()[0].claim == Claim(worker_id=WORKER, attempt=1)
            assert await worker.queue.complete(claimed)

    arena.play(story, SHORT_CLAIMS)


def test_a_claim_against_an_old_revision_fails(arena: Arena) -> None:
    """What a worker saw before someone else wrote is worth nothing."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        await gateway.queue.enqueue(task("t"))
        async with worker.queue.view() as view:
            old = await first(view)
            claimed = await worker.queue.claim(old, WORKER)
            assert claimed is not None
            assert await worker.queue.renew(claimed) is not None
            assert await worker.queue.claim(old, OTHER) is None
            await gateway.queue.cancel(old.record.task_id)
            assert await worker.queue.claim(old, OTHER) is None

    arena.play(story)


def test_completion_removes_a_task_everywhere_once(arena: Arena) -> None:
    """A completed task leaves every view, its removal is told once, and nothing of it stays."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with gateway.queue.view() as watching, worker.queue.view() as view:
            removed: list[str] = []
            watching.on_removed(removed.append)
            await gateway.queue.enqueue(task("t"))
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            await until(watching, bool)
            assert await worker.queue.complete(claimed)
            assert not await worker.queue.complete(claimed)
            await until_empty(view)
            await until_empty(watching)
            assert removed == ["t"]
            assert await gateway.queue.waiting_count() == 0
            assert not await gateway.queue.cancel(claimed.task.record.task_id)

    arena.play(story)


def test_cancel_removes_a_task_in_every_state(arena: Arena) -> None:
    """Waiting, claimed or lapsed: a cancelled task is gone, and its claimant notices at its next write."""

    async def story(join: Join) -> None:
        gateway, worker = await join(), await join()
        async with worker.queue.view() as view:
            removed: list[str] = []
            view.on_removed(removed.append)
            waiting, held, lapsed = task("waiting"), task("held"), task("lapsed")
            await gateway.queue.enqueue(lapsed)
            assert await worker.queue.claim(await first(view), WORKER) is not None
            await until(view, lambda tasks: any(t.claim is not None for t in tasks))
            await until(view, lambda tasks: any(t.attempts == 1 and t.claim is None for t in tasks))
            assert await gateway.queue.cancel(lapsed.record.task_id)
            await until_empty(view)
            await gateway.queue.enqueue(held)
            claimed = await worker.queue.claim(await first(view), WORKER)
            assert claimed is not None
            assert await gateway.queue.cancel(held.record.task_id)
            assert await worker.queue.renew(claimed) is None
            await gateway.queue.enqueue(waiting)
            assert await gateway.queue.cancel(waiting.record.task_id)
            await until_empty(view)
            assert not await gateway.queue.cancel(waiting.record.task_id)
            assert await gateway.queue.waiting_count() == 0
            assert set(removed) >= {"lapsed", "held"}

    arena.play(story, SHORT_CLAIMS)
