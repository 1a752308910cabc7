"""The simulated engine passes the engine contract on a virtual clock."""

import pytest

from tests.engine.bench import Bench
from tests.engine.contract import EngineContract
from tests.engine.simulated_bench import SimulatedBench


class TestSimulatedEngine(EngineContract):
    """The contract, simulated."""

    @pytest.fixture
    def bench(self) -> Bench:
        """Two simulated engines on one fabric, new for every scenario."""
        return SimulatedBench()
