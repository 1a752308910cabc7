"""Demand from the gateways themselves, workers and queue from the bus.

Comes in: `/metrics` of every gateway, the fleet's statuses, the queue. Goes out: a sight. Invariant: a
gateway that is new or began again counts from its second reading on; when none answers with metrics nothing
is seen. Not here: which counters are read (`exposition`), what they mean (`counting`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection

import httpx

from planner.observation import Attainment, Backlog, PoolState
from planner.observers.counting import Growth, attainment, demand, together
from planner.observers.exposition import Reading, grown, read
from planner.observers.port import ObservationFailed, Sight
from planner.observers.settings import GatewaysSettings
from planner.settings import KindSettings
from planner.turns import role_of
from services.bus.fleet import Fleet
from services.bus.port import Bus
from services.domain.errors import BusUnavailable
from services.domain.slo import Slo
from services.domain.worker import Lifecycle, Phase, WorkerStatus
from services.runtime.metrics_page import NoMetrics, parse_page


class GatewaysObserver:
    """Reads gateways by HTTP and follows the fleet on the bus."""

    def __init__(
        self,
        settings: GatewaysSettings,
        slo: Slo,
        *,
        now_s: Callable[[], float],
        bus: Bus | None,
        fleet: Fleet | None,
        kind: KindSettings,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """Look at nothing yet.

        Args:
            settings: the gateways.
            slo: targets that attainment is measured by.
            now_s: the planner's clock.
            bus: where prompts wait; None: nobody counts them.
            fleet: who announces itself; None: nobody listens.
            kind: of all workers; their announced speed is held against its model.
            client: to the gateways; None makes one.
        """
        self._settings = settings
        self._slo = slo
        self._now_s = now_s
        self._bus = bus
        self._kind = kind
        self._client = client or httpx.AsyncClient(timeout=settings.request_timeout_s)
        self._before: dict[str, Reading] = {}
        self._fleet = fleet

    async def look(self) -> Sight:
        """Look once."""
        readings = await asyncio.gather(*(self._read(url) for url in self._settings.urls))
        fresh = {url: reading for url, reading in zip(self._settings.urls, readings, strict=True) if reading}
        if not fresh:
            raise ObservationFailed(f"none of {len(readings)} gateways answers")
        growths: list[Growth] = []
        for url, reading in fresh.items():
            before = self._before.get(url)
            growth = None if before is None else grown(before, reading)
            if growth is not None:
                growths.append(growth)
        self._before.update(fresh)
        growth = together(growths)
        if growth is None:
            return Sight(
                age_s=0.0,
                demand=None,
                backlog=await self._backlog(),
                attainment=Attainment(),
                pools=self.pools(),
            )
        prefill_pace, decode_pace = self._paces()
        return Sight(
            age_s=0.0,
            demand=demand(growth),
            backlog=await self._backlog(),
            attainment=attainment(growth, self._slo, prefill_pace=prefill_pace, decode_pace=decode_pace),
            pools=self.pools(),
        )

    def pools(self) -> tuple[PoolState, ...]:
        """Pools as workers announce themselves; one that serves both phases counts to decode."""
        ready: Counter[Phase] = Counter()
        draining: Counter[Phase] = Counter()
        for status in self._statuses():
            phase = role_of(status)
            ready[phase] += status.lifecycle is Lifecycle.READY
            draining[phase] += status.lifecycle is Lifecycle.DRAINING
        return tuple(
            PoolState(
                phase=phase, kind=self._kind.name, ready_count=ready[phase], draining_count=draining[phase]
            )
            for phase in Phase
        )

    def _paces(self) -> tuple[float, float]:
        """Times of prefill and decode that workers announce, over those of the kind's model."""
        model = self._kind.model()
        speeds = [status.performance for status in self._statuses()]
        if not speeds:
            return 1.0, 1.0
        prefill = sum(speed.prefill_step_s for speed in speeds) / len(speeds) / model.prefill_step_s
        decode = sum(speed.decode_step_s for speed in speeds) / len(speeds) / model.decode_step_s
        return prefill, decode

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _read(self, url: str) -> Reading | None:
        try:
            answer = await self._client.get(url)
            return read(parse_page(answer.text), self._now_s()) if answer.is_success else None
        except (httpx.HTTPError, NoMetrics):
            return None

    async def _backlog(self) -> Backlog:
        loads = [status.load for status in self._statuses()]
        waiting = 0
        if self._bus is not None:
            try:
                waiting = await self._bus.queue.waiting_count()
            except BusUnavailable as error:
                raise ObservationFailed(f"the queue cannot be counted: {error}") from None
        return Backlog(
            waiting_count=waiting,
            waiting_tokens=sum(load.waiting_prefill_tokens for load in loads),
            running_count=sum(load.running_count for load in loads),
            running_context_tokens=sum(load.running_context_tokens for load in loads),
        )

    def _statuses(self) -> Collection[WorkerStatus]:
        return () if self._fleet is None else self._fleet.statuses.values()
