"""Where new requests wait until a decode worker has room: in the gateway, because no engine can hold them.

Comes in: requests that the router would place if decode were not full. Goes out: their placements, one
after another, or a refusal. Invariant: only the first in line asks the router; interactive requests go
before batch ones, and a batch request that has waited for half of the longest wait goes before them;
nobody waits longer than `wait_max_s` or its own deadline, and no more wait than `waiting_max`.
Not here: whether there is room (`services.router.placement`), requests that have begun: they never wait.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from services.domain.errors import DeadlineUnmeetable, Saturated
from services.domain.placement import Placement
from services.domain.request import is_batch
from services.gateway.life import DeadlinePassed, Life, YourTurn
from services.runtime.clock import Clock
from services.runtime.metrics import Meters

RETRY_S = 0.05
"""Time between two questions of the first in line: well under the time between two statuses."""

LEFT_KEPT = 64
"""Recent departures from which the pace of the line is taken."""


class WaitingRoom:
    """The line of one gateway."""

    def __init__(self, *, waiting_max: int, wait_max_s: float, clock: Clock, meters: Meters) -> None:
        """Open an empty room.

        Args:
            waiting_max: most requests that wait.
            wait_max_s: longest wait of each.
            clock: of the event loop.
            meters: of this process.
        """
        self._waiting_max = waiting_max
        self._wait_max_s = wait_max_s
        self._clock = clock
        self._meters = meters
        self._lines: tuple[dict[Life, float], dict[Life, float]] = ({}, {})
        """Interactive and batch: since when each waits, in order."""
        self._left_s: deque[float] = deque(maxlen=LEFT_KEPT)

    def __len__(self) -> int:
        return len(self._lines[0]) + len(self._lines[1])

    async def place(self, life: Life, ask: Callable[[], Awaitable[Placement]]) -> Placement:
        """Place a request, at once when nobody waits before it and there is room.

        Args:
            life: whose; its mail is read while it waits.
            ask: asks the router once.

        Raises:
            Saturated: it would wait, or has waited, too long.
            DeadlineUnmeetable: the line is longer than its deadline.
            DeadlineExceeded: the deadline passed.
            Rejected: as the router said.
        """
        if self._ahead_of(life) == 0:
            try:
                return await ask()
            except Saturated as full:
                if full.room_in_s is None:
                    raise
        self._check_line(life)
        with self._line(life):
            return await self._wait(life, ask)

    async def _wait(self, life: Life, ask: Callable[[], Awaitable[Placement]]) -> Placement:
        until_s = self._clock.now_s() + self._wait_max_s
        while True:
            left_s = until_s - self._clock.now_s()
            if left_s <= 0:
                raise Saturated(
                    message=f"no decode worker had room within {self._wait_max_s:g} s",
                    retry_after_s=self._drain_s(len(self)),
                )
            first = self._first() is life
            if isinstance(await life.next(min(left_s, RETRY_S) if first else left_s), DeadlinePassed):
                raise life.too_late()
            now_first = self._first()
            if now_first is not life:
                if first and now_first is not None:
                    now_first.post(YourTurn())  # it has grown old enough to go before this one
                continue
            try:
                placement = await ask()
            except Saturated as full:
                if full.room_in_s is None:
                    raise
            else:
                self._left_s.append(self._clock.now_s())
                return placement

    @contextmanager
    def _line(self, life: Life) -> Iterator[None]:
        """Stand in line; the next one learns when it is first."""
        line = self._lines[is_batch(life.request.priority)]
        if not len(self):
            self._left_s.clear()  # the pace of an earlier line says nothing of this one
        line[life] = self._clock.now_s()
        self._meters.set("baton_requests_waiting", len(self))
        try:
            yield
        finally:
            del line[life]
            self._meters.set("baton_requests_waiting", len(self))
            first = self._first()
            if first is not None:
                first.post(YourTurn())

    def _first(self) -> Life | None:
        interactive, batch = self._lines
        if batch:
            life, since_s = next(iter(batch.items()))
            if not interactive or self._clock.now_s() - since_s >= self._wait_max_s / 2:
                return life
        return next(iter(interactive), None)

    def _ahead_of(self, life: Life) -> int:
        return len(self) if is_batch(life.request.priority) else len(self._lines[0])

    def _drain_s(self, count: int) -> float:
        """Predict the time in which so many leave the line; 0 while its pace is not known."""
        if len(self._left_s) < 2:
            return 0.0
        return count * (self._left_s[-1] - self._left_s[0]) / (len(self._left_s) - 1)

    def _check_line(self, life: Life) -> None:
        """Refuse at once who would wait too long.

        Raises:
            Saturated: there is no place in the line, or it is too long.
            DeadlineUnmeetable: the line is longer than the deadline.
        """
        ahead = self._ahead_of(life)
        wait_s = self._drain_s(ahead + 1)
        deadline_s = life.deadline_at_s - self._clock.now_s()
        if len(self) >= self._waiting_max or wait_s > self._wait_max_s:
            raise Saturated(
                message=f"decode is full and {ahead} requests wait before this one, for about {wait_s:.1f} s",
                retry_after_s=max(wait_s - self._wait_max_s, self._drain_s(1)),
            )
        if wait_s > deadline_s:
            raise DeadlineUnmeetable(
                message=f"decode is full and has room for it in {wait_s:.2f} s, after its deadline",
                predicted_s=wait_s,
                deadline_s=deadline_s,
                retry_after_s=wait_s - deadline_s,
            )
