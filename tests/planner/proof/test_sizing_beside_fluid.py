"""What the planner's model says of a fixed fleet is what the fluid cluster makes of it."""

import numpy as np
import pytest

from planner.load import ExpectedLoad, Spread
from planner.proof.simulation import run_scaler
from planner.proof.work import DEFAULT_ENGINE, Work
from planner.sizing.needs import Sizing
from services.domain.slo import Slo
from tests.planner.proof.even_loads import CHAT, QUICK, load_of
from tests.planner.proof.scalers import Fixed

STEPS = 2_400
"""Of a second."""


def said_and_seen(
    rate: float, prompt: float, output: float, pools: tuple[int, int], slo: Slo
) -> tuple[float, float]:
    """Share of late requests, as the model says and as it comes in forty minutes."""
    arrivals = np.random.default_rng(1).poisson(rate, STEPS).astype(np.float64)
    load = load_of(arrivals.tolist(), step_s=1.0, prompt=prompt, output=output)
    expected = ExpectedLoad(
        requests_per_s=rate,
        spread=Spread(),
        prompt_tokens=prompt,
        uncached_tokens=prompt,
        uncached_square_tokens=prompt**2 * load.spread_square,
        output_tokens=output,
        context_tokens=prompt + output,
        dispersion=load.dispersion,
    )
    said = Sizing(DEFAULT_ENGINE, expected, slo, spills=True).late_of(*pools)
    run = run_scaler(Fixed(*pools), Work(load=load, engine=DEFAULT_ENGINE, slo=slo), startup_s=30.0)
    met, judged = run.grades.met[STEPS // 2 :], run.grades.judged[STEPS // 2 :]
    return said, 1.0 - float(met.sum() / judged.sum())


@pytest.mark.parametrize(
    ("rate", "pools"),
    [
        (16.0, (1, 1)),
        (17.5, (1, 1)),
        (25.0, (1, 2)),
        (33.0, (2, 2)),
        (37.0, (2, 2)),
        (40.0, (2, 3)),
        (43.5, (2, 3)),
        (46.0, (2, 3)),
    ],
)
def test_decode_workers_that_take_prompts_are_as_late_as_said(rate: float, pools: tuple[int, int]) -> None:
    """From half full to so full that one in twenty is late."""
    said, seen = said_and_seen(rate, 3_000.0, 300.0, pools, CHAT)
    assert said == pytest.approx(seen, abs=0.02 + 0.3 * seen)


def test_near_a_prompts_own_time_a_pool_is_well_or_lost() -> None:
    """With full steps nothing is in time; a worker more, and nearly everything is."""
    said, seen = said_and_seen(347.0, 713.0, 46.0, (4, 2), QUICK)
    assert min(said, seen) > 0.5
    said, seen = said_and_seen(347.0, 713.0, 46.0, (5, 2), QUICK)
    assert max(said, seen) < 0.03
