"""The simulated engine passes the engine contract on a virtual clock."""

import pytest

from services.domain.ids import WorkerId
from services.engine.port import Engine
from services.engine.simulated import Fabric, SimulatedEngine, SimulatedSettings
from services.runtime.clock import run_virtual
from tests.engine.bench import Bench, Pair, Scenario, attend, started
from tests.engine.contract import EngineContract

SETTINGS = SimulatedSettings(kv_blocks=512, context_tokens_max=2048, sequences_max=32, step_tokens_max=256)


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

    async def _play(self, scenario: Scenario) -> None:
        fabric = Fabric("bench")
        prefill, decode = (
            SimulatedEngine(SETTINGS, worker_id=WorkerId(name), fabric=fabric) for name in ("p", "d")
        )
        pair = Pair(
            prefill=await started(prefill, deadline_s=120.0), decode=await started(decode, deadline_s=120.0)
        )
        try:
            await attend(pair, scenario)
        finally:
            await prefill.stop()
            await decode.stop()


class TestSimulatedEngine(EngineContract):
    """The contract, simulated."""

    @pytest.fixture
    def bench(self) -> Bench:
        """Two simulated engines on one fabric."""
        return SimulatedBench()
