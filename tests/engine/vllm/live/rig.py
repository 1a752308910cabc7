"""Two real vLLM engines under test, kept up for a whole module because each takes seconds to boot.

They live on one event loop that runs only while a scenario does. Prefill and decode are pinned to a core
each where the machine has two: unpinned, their compute threads meet on one core and stall each other.
"""

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from services.domain.blocks import CacheScope
from services.domain.ids import WorkerId
from services.engine.port import Engine
from services.engine.vllm.adapter import VllmEngine
from services.engine.vllm.settings import VllmSettings
from services.tinymodel import model_path
from tests.engine.bench import Bench, Pair, Scenario, Station, attend, started

MODEL = "contract"
DEADLINE_S = 60.0
LEASE_S = 6
FLIP_ORDER = "BATON_TEST_FLIP"
"""Environment variable with the name of the file that tells `flipping` to change a pulled block."""
FLIPPING_CONNECTOR = ("tests.engine.vllm.live.flipping", "NixlConnector")
"""Of the decode engine; imports vLLM, so that it is named and not imported here."""


def settings(core: int, **changes: Any) -> VllmSettings:
    """Settings of one engine of the shipped model; float32, so that tokens can be compared."""
    cores = sorted(os.sched_getaffinity(os.getppid()))
    chosen: dict[str, Any] = {
        "model": str(model_path()),
        "model_name": MODEL,
        "dtype": "float32",
        "kv_cache_bytes": 32 * 1024 * 1024,
        "context_tokens_max": 2048,
        "step_tokens_max": 512,
        "sequences_max": 64,
        "lease_s": LEASE_S,
        "cores": (cores[core % len(cores)],) if len(cores) > 1 else (),
        "openmp_threads": 1,
    }
    return VllmSettings(**(chosen | changes))


class VllmRig(Bench):
    """The engine contract's bench for vLLM."""

    scope = CacheScope(model=MODEL)
    token_ids = range(300, 2000)
    """Ordinary tokens of the shipped model, whose vocabulary has 2,048."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._pair: Pair | None = None
        self._folder = TemporaryDirectory(prefix="baton-flip-")
        os.environ[FLIP_ORDER] = f"{self._folder.name}/order"

    def run(self, scenario: Scenario) -> None:
        """Run on the pair that stays; it is started by the first scenario."""
        self._runner.run(self._play(scenario))

    def run_fresh(self, scenario: Scenario) -> None:
        """Run with a decode engine of its own, which the scenario may stop or kill."""
        self._runner.run(self._play_fresh(scenario))

    async def kill(self, engine: Engine) -> None:
        """Kill the engine process."""
        os.kill(engine_pid(engine), signal.SIGKILL)

    async def corrupt_next_pull(self, engine: Engine, *, place: int = -1) -> None:
        """Tell the decode engine's transport; the prefill engine has the product's own."""
        assert self._pair is not None
        assert engine is self._pair.decode.engine
        order = Path(os.environ[FLIP_ORDER])
        order.with_suffix(".new").write_text(str(place))
        order.with_suffix(".new").rename(order)

    def close(self) -> None:
        """Stop the engines and the loop."""
        if self._pair is not None:
            for station in (self._pair.prefill, self._pair.decode):
                self._runner.run(station.engine.stop())
            self._pair = None
        _forget_engines()
        self._runner.close()
        del os.environ[FLIP_ORDER]
        self._folder.cleanup()

    async def _play(self, scenario: Scenario) -> None:
        pair = await self._stays()
        for station in (pair.prefill, pair.decode):
            await station.until_empty()  # an earlier scenario's pulled leases are noticed a moment later
            station.heard.violations.clear()
        await attend(pair, scenario)

    async def _play_fresh(self, scenario: Scenario) -> None:
        pair = await self._stays()
        engine = VllmEngine(settings(1), worker_id=WorkerId("fresh"))
        try:
            await attend(Pair(prefill=pair.prefill, decode=await started(engine, DEADLINE_S)), scenario)
        finally:
            await engine.stop()
            del engine
            _forget_engines()

    async def _stays(self) -> Pair:
        if self._pair is None:
            prefill = await self._boot(0, "prefill")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("services.engine.vllm.boot.CONNECTOR", FLIPPING_CONNECTOR)
                self._pair = Pair(prefill=prefill, decode=await self._boot(1, "decode"))
        return self._pair

    async def _boot(self, core: int, name: str) -> Station:
        return await started(VllmEngine(settings(core), worker_id=WorkerId(name)), DEADLINE_S)


def _forget_engines() -> None:
    """Collect stopped engines now: vLLM leaves a ZMQ context to the collector, which warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def engine_pid(engine: Engine) -> int:
    """Find the process in which an engine steps."""
    assert isinstance(engine, VllmEngine)
    assert engine.engine_pid is not None
    return engine.engine_pid


@contextmanager
def open_rig() -> Iterator[VllmRig]:
    """A rig that is stopped at the end; the test process gets its cores back."""
    cores = os.sched_getaffinity(0)
    rig = VllmRig()
    try:
        yield rig
    finally:
        rig.close()
        os.sched_setaffinity(0, cores)
