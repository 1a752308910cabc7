"""The vLLM engine passes the engine contract, on real weights and real transfers."""

import pytest

from tests.engine.bench import Bench
from tests.engine.contract import EngineContract
from tests.engine.vllm.live.rig import VllmRig

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(600),  # the first test boots two engines
    pytest.mark.filterwarnings("default"),  # vLLM's and torch's own, none of ours
]


class TestVllmEngine(EngineContract):
    """The contract, live."""

    @pytest.fixture
    def bench(self, rig: VllmRig) -> Bench:
        """Two engines that stay up between scenarios."""
        return rig
