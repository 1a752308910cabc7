"""Several kinds of workers: the cheaper one is used as far as it goes, and no limit is passed."""

import numpy as np
import pytest

from planner.planner import Planner
from planner.proof.load import drawn, led_in
from planner.proof.replaying import PLANNER, first_mixture, replay_load
from planner.proof.simulation import run_scaler
from planner.proof.work import DEFAULT_ENGINE, Work
from planner.settings import KindSettings, LimitSettings, PlannerSettings, TargetSettings
from tests.planner.proof.even_loads import CHAT, load_of

CHEAP_MAX = 4
DEAR = KindSettings(name="h200", start_s=30.0, price_per_hour=4.0, power_w=700.0)
CHEAP = KindSettings(
    name="h100",
    performance="h100-llama-3.1-8b-bf16",
    start_s=30.0,
    price_per_hour=1.0,
    power_w=500.0,
    workers_max=CHEAP_MAX,
)
LOAD = led_in(drawn(load_of([60.0] * 60 + [150.0] * 60), 1), lead_s=600.0, like_s=120.0, seed=2)


def settings(*kinds: KindSettings, power_w_max: float | None = None) -> PlannerSettings:
    """Settings with these kinds."""
    return PlannerSettings(
        targets=TargetSettings(ttft_s=CHAT.ttft_s, tpot_s=CHAT.tpot_s),
        kinds=kinds,
        limits=LimitSettings(power_w_max=power_w_max),
    )


def test_a_cheaper_kind_saves_what_it_can_and_costs_stay_above_the_bound() -> None:
    """The same requests in time for less money; both kinds are needed, since one is scarce."""
    alone = replay_load(LOAD, settings(DEAR), compares=False).outcomes[0]
    both = replay_load(LOAD, settings(DEAR, CHEAP), compares=False).outcomes[0]
    assert both.scaler == PLANNER
    assert both.attained_frac > alone.attained_frac - 0.005
    assert both.gpu_h < 0.95 * alone.gpu_h
    assert both.ratio >= 1.0


@pytest.mark.parametrize("power_w_max", [4_000.0, 2_500.0])
def test_power_stays_within_its_limit(power_w_max: float) -> None:
    """Whatever is asked for: workers that start or go take power, too."""
    limited = settings(DEAR, CHEAP, power_w_max=power_w_max)
    work = Work(load=LOAD, engine=DEFAULT_ENGINE, slo=CHAT)
    run = run_scaler(Planner(limited), work, startup_s=30.0, fleet=first_mixture(LOAD, limited))
    settled = run.power_w[LOAD.counted]
    assert np.median(settled) > 0.5 * power_w_max
    assert np.quantile(settled, 0.9) <= power_w_max
