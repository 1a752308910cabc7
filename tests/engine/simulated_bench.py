"""Simulated engines under test: what their test modules share."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.domain.ids import WorkerId
from services.domain.request import InferenceRequest
from services.engine.port import Engine
from services.engine.simulated import Fabric, SimulatedEngine, SimulatedSettings, expected_tokens
from services.runtime.clock import run_virtual
from tests.engine.bench import Bench, Pair, Scenario, Station, attend, started

SETTINGS = SimulatedSettings(kv_blocks=512, context_tokens_max=2048, sequences_max=32, step_tokens_max=256)
DEADLINE_S = 120.0


class SimulatedBench(Bench):
    """Fresh engines for every scenario: they cost nothing."""

    def run(self, scenario: Scenario) -> None:
        """Run on a new virtual clock."""
        run_virtual(self._play(scenario))

    run_fresh = run

    async def kill(self, engine: Engine) -> None:
        """Use the engine's own fault hook."""
        assert isinstance(engine, SimulatedEngine)
        engine.crash()

    async def corrupt_next_pull(self, engine: Engine, *, place: int = -1) -> None:
        """Use the engine's own fault hook."""
        assert isinstance(engine, SimulatedEngine)
        engine.corrupt_next_pulls(1, place=place)

    async def _play(self, scenario: Scenario) -> None:
        async with two() as pair:
            await attend(pair, scenario)


ask = SimulatedBench().request


def now_s() -> float:
    """Virtual time."""
    return asyncio.get_running_loop().time()


def engine_of(station: Station) -> SimulatedEngine:
    """Reach the fault hooks."""
    assert isinstance(station.engine, SimulatedEngine)
    return station.engine


@asynccontextmanager
async def station(
    settings: SimulatedSettings = SETTINGS, fabric: Fabric | None = None
) -> AsyncIterator[Station]:
    """One started engine."""
    engine = SimulatedEngine(settings, worker_id=WorkerId("w"), fabric=fabric or Fabric("one"))
    try:
        yield await started(engine, DEADLINE_S)
    finally:
        await engine.stop()


@asynccontextmanager
async def two(
    settings: SimulatedSettings = SETTINGS, *, fabrics: Sequence[Fabric] = ()
) -> AsyncIterator[Pair]:
    """Two started engines: on one fabric, or each on its own as in two processes."""
    first, second = fabrics or (Fabric("two"),) * 2
    async with station(settings, first) as prefill, station(settings, second) as decode:
        yield Pair(prefill=prefill, decode=decode)


def right_tokens(request: InferenceRequest) -> tuple[int, ...]:
    """What the request must get."""
    return expected_tokens(
        request, vocabulary=SETTINGS.vocabulary(), context_tokens_max=SETTINGS.context_tokens_max
    ).token_ids
