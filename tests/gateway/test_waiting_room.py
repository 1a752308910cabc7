"""Requests wait in line for room at decode: in order, bounded, and never beyond their time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.domain.blocks import CacheScope
from services.domain.errors import DeadlineExceeded, DeadlineUnmeetable, NotReady, Saturated, ServingError
from services.domain.ids import RequestId, WorkerId
from services.domain.placement import Path, Placement
from services.domain.request import InferenceRequest, Sampling
from services.gateway.life import DeadlinePassed, Life
from services.gateway.port import ServeOptions
from services.gateway.waiting_room import WaitingRoom
from services.runtime.clock import LoopClock, run_virtual
from services.runtime.metrics import Meters

WAIT_MAX_S = 10.0
FULL = Saturated(message="full", retry_after_s=1.0, room_in_s=1.0)


class Door:
    """A router that lets one in per period, once it is open."""

    def __init__(self, *, opens_s: float = 0.0, period_s: float = 1.0) -> None:
        self._next_s = opens_s
        self._period_s = period_s
        self.served: list[str] = []
        self.asked_count = 0

    def ask(self, life: Life) -> Callable[[], Awaitable[Placement]]:
        """Ask once for a request."""

        async def asking() -> Placement:
            self.asked_count += 1
            now_s = asyncio.get_running_loop().time()
            if now_s < self._next_s:
                raise FULL
            self._next_s = now_s + self._period_s
            self.served.append(life.request.request_id)
            return Placement(
                request_id=life.request.request_id,
                path=Path.LOCAL,
                worker_id=WorkerId("d"),
                overlap_blocks=0,
                predicted_ttft_s=0.0,
                predicted_tpot_s=0.0,
                predicted_s=0.0,
                reason="",
                candidates=(),
            )

        return asking


def life_of(name: str, *, priority: int = 0, deadline_s: float = 600.0) -> Life:
    """A request that arrives now."""
    request = InferenceRequest(
        request_id=RequestId(name),
        scope=CacheScope(model="m"),
        prompt_token_ids=(1,),
        sampling=Sampling(max_tokens=1),
        priority=priority,
    )
    loop = asyncio.get_running_loop()
    life = Life(request, ServeOptions(deadline_s=None), now_s=loop.time(), deadline_s=deadline_s)
    loop.call_later(deadline_s, life.post, DeadlinePassed())
    return life


def room_of(waiting_max: int = 100) -> WaitingRoom:
    """An empty room."""
    return WaitingRoom(waiting_max=waiting_max, wait_max_s=WAIT_MAX_S, clock=LoopClock(), meters=Meters())


async def tried(room: WaitingRoom, door: Door, life: Life) -> ServingError | float:
    """Say when it was let in, or why not."""
    try:
        await room.place(life, door.ask(life))
    except ServingError as error:
        return error
    return asyncio.get_running_loop().time()


def test_an_open_door_is_passed_at_once() -> None:
    """Nobody waits while there is room, and one question is enough."""

    async def main() -> None:
        door = Door(period_s=0.0)
        assert [await tried(room_of(), door, life_of(str(i))) for i in range(3)] == [0.0, 0.0, 0.0]
        assert door.asked_count == 3

    run_virtual(main())


def test_the_line_keeps_its_order() -> None:
    """First come, first served, and only the first in line asks."""

    async def main() -> None:
        room, door = room_of(), Door(opens_s=1.0, period_s=0.2)
        await asyncio.gather(*(tried(room, door, life_of(str(i))) for i in range(5)))
        assert door.served == ["0", "1", "2", "3", "4"]
        assert door.asked_count < 60
        assert len(room) == 0

    run_virtual(main())


def test_interactive_requests_go_before_batch_ones() -> None:
    """However long the line of batch work is."""

    async def main() -> None:
        room, door = room_of(), Door(opens_s=1.0, period_s=0.2)
        batch = [asyncio.ensure_future(tried(room, door, life_of(f"b{i}", priority=1))) for i in range(3)]
        await asyncio.sleep(0.5)
        await tried(room, door, life_of("chat"))
        await asyncio.gather(*batch)
        assert door.served == ["chat", "b0", "b1", "b2"]

    run_virtual(main())


def test_batch_work_is_not_starved() -> None:
    """Interactive requests come faster than they are served; a batch one waits for half of the limit."""

    async def main() -> None:
        room, door = room_of(), Door(opens_s=0.5, period_s=0.5)
        chats = [asyncio.ensure_future(tried(room, door, life_of("first")))]
        await asyncio.sleep(0.1)
        batch = asyncio.ensure_future(tried(room, door, life_of("batch", priority=3)))
        for i in range(60):
            chats.append(asyncio.ensure_future(tried(room, door, life_of(f"c{i}"))))
            await asyncio.sleep(0.2)
        at_s = await batch
        assert isinstance(at_s, float)
        assert at_s <= 0.1 + WAIT_MAX_S / 2 + 2 * 0.5
        await asyncio.gather(*chats)

    run_virtual(main())


def test_nobody_waits_longer_than_allowed() -> None:
    """The door stays shut: after the longest wait the refusal comes, and nobody is left in line."""

    async def main() -> None:
        room, door = room_of(), Door(opens_s=1e9)
        outcomes = await asyncio.gather(*(tried(room, door, life_of(str(i))) for i in range(4)))
        assert all(isinstance(outcome, Saturated) for outcome in outcomes)
        assert asyncio.get_running_loop().time() == pytest.approx(WAIT_MAX_S)
        assert len(room) == 0

    run_virtual(main())


def test_a_deadline_ends_the_wait() -> None:
    """Also of one that is not first in line."""

    async def main() -> None:
        room, door = room_of(), Door(opens_s=1e9)
        first = asyncio.ensure_future(tried(room, door, life_of("first")))
        await asyncio.sleep(0.1)
        outcome = await tried(room, door, life_of("second", deadline_s=2.0))
        assert isinstance(outcome, DeadlineExceeded)
        assert asyncio.get_running_loop().time() == pytest.approx(2.1)
        assert isinstance(await first, Saturated)

    run_virtual(main())


def test_a_line_too_long_refuses_at_once() -> None:
    """By its places, by the time it will take, and by the caller's own deadline."""

    async def main() -> None:
        room, door = room_of(waiting_max=30), Door(period_s=0.5)
        waiting = [asyncio.ensure_future(tried(room, door, life_of(str(i)))) for i in range(19)]
        await asyncio.sleep(3.2)  # by now its pace is known: two a second, thirteen wait
        hurried = await tried(room, door, life_of("hurried", deadline_s=3.0))
        assert isinstance(hurried, DeadlineUnmeetable)
        assert hurried.retry_after_s is not None
        waiting += [asyncio.ensure_future(tried(room, door, life_of(f"more{i}"))) for i in range(10)]
        await asyncio.sleep(0)
        refused = await tried(room, door, life_of("over"))
        assert isinstance(refused, Saturated)
        assert refused.retry_after_s > 0
        assert asyncio.get_running_loop().time() == pytest.approx(3.2), "all of that at once"
        await asyncio.gather(*waiting)

    run_virtual(main())


def test_another_refusal_is_passed_on() -> None:
    """Only a lack of room is waited for."""

    async def main() -> None:
        room = room_of()

        async def nobody() -> Placement:
            raise NotReady(message="nobody", retry_after_s=1.0)

        async def overload() -> Placement:
            raise Saturated(message="overload", retry_after_s=1.0)

        with pytest.raises(NotReady):
            await room.place(life_of("a"), nobody)
        with pytest.raises(Saturated):
            await room.place(life_of("b"), overload)
        assert asyncio.get_running_loop().time() == 0.0
        assert len(room) == 0

    run_virtual(main())


def test_a_client_that_leaves_makes_place() -> None:
    """The next in line is asked without delay."""

    async def main() -> None:
        room, door = room_of(), Door(opens_s=0.3)
        first = asyncio.ensure_future(tried(room, door, life_of("first")))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(tried(room, door, life_of("second")))
        await asyncio.sleep(0.2)
        first.cancel()
        at_s = await second
        assert isinstance(at_s, float)
        assert at_s <= 0.4
        assert door.served == ["second"]

    run_virtual(main())
