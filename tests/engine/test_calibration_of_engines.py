"""A survey of a simulated engine finds the model that the engine was given; failures end it at once."""

from itertools import pairwise

import msgspec
import pytest

from services.domain.errors import ContextTooLong, EngineFailed
from services.domain.ids import WorkerId
from services.domain.performance import PRESETS, PerformanceModel
from services.engine.calibration.fit import Fit, fit
from services.engine.calibration.measure import Subject
from services.engine.calibration.points import decodes, judge, prefills, transfers
from services.engine.calibration.shapes import DecodeShape, PrefillShape
from services.engine.calibration.survey import Progress, Survey, survey
from services.engine.simulated import Fabric, SimulatedEngine, SimulatedSettings
from services.runtime.clock import run_virtual

SETTINGS = SimulatedSettings(
    kv_blocks=4096, context_tokens_max=8192, sequences_max=64, step_tokens_max=2048, kv_bytes_per_token=65_536
)
LONG_S = 1e5


def subject(settings: SimulatedSettings = SETTINGS, fabric: Fabric | None = None) -> Subject:
    """An engine that was not started."""
    engine = SimulatedEngine(settings, worker_id=WorkerId("w"), fabric=fabric or Fabric("one"))
    return Subject(engine, model="any", token_ids=range(300, 4000))


def surveyed(
    settings: SimulatedSettings, *, handoff: bool = False, budget_s: float = LONG_S, rounds_max: int = 1
) -> tuple[Survey, list[Progress]]:
    """Survey an engine on a virtual clock."""

    async def play() -> tuple[Survey, list[Progress]]:
        fabric, told = Fabric("pair"), list[Progress]()
        giver, taker = subject(settings, fabric), subject(settings, fabric)
        await giver.start()
        await taker.start()
        found = await survey(
            giver,
            budget_s=budget_s,
            quick=True,
            tell=told.append,
            other=taker if handoff else None,
            rounds_max=rounds_max,
        )
        assert giver.engine.load().running_count == giver.engine.load().waiting_count == 0
        await giver.engine.stop()
        await taker.engine.stop()
        return found, told

    return run_virtual(play())


def fitted(found: Survey) -> Fit:
    """Fit from a model that is wrong everywhere."""
    kv_tokens = SETTINGS.kv_blocks * SETTINGS.block_size_tokens
    return fit(found.points, before=PRESETS["h100x4-llama-3.1-70b-fp8"], kv_tokens=kv_tokens)


@pytest.mark.parametrize("name", ["h200-llama-3.1-8b-fp8", "cpu-baton-tiny", "h200x2-llama-3.1-70b-fp8"])
def test_the_model_of_a_simulated_engine_is_found(name: str) -> None:
    """Each constant within 1 %, handoffs included, from outputs and their times alone."""
    found, _ = surveyed(msgspec.structs.replace(SETTINGS, performance=name), handoff=True)
    assert not found.missed
    result = fitted(found)
    assert result.fitted == ("prefill", "decode", "transfer")
    for constant in PerformanceModel.__dataclass_fields__:
        wanted = getattr(PRESETS[name], constant)
        assert getattr(result.model, constant) == pytest.approx(wanted, rel=0.01), constant


def test_a_model_with_squares_is_predicted_within_a_hundredth() -> None:
    """The peer's timing: what constants mean is different, what they predict is the same."""
    found, _ = surveyed(msgspec.structs.replace(SETTINGS, performance="dynamo-mocker"), handoff=True)
    result = fitted(found)
    for pick in (prefills, decodes, transfers):
        spread = judge(result.model, pick(found.points))
        assert spread is not None
        assert spread.mean_frac < 0.01
    assert result.model.prefill_square_s == pytest.approx(PRESETS["dynamo-mocker"].prefill_square_s, rel=0.01)


def test_a_survey_ends_in_time_and_says_what_is_missing() -> None:
    """Past its budget no shape is begun; those that were never measured are named."""
    whole, told = surveyed(SETTINGS)
    budget_s = whole.took_s / 3
    cut, _ = surveyed(SETTINGS, budget_s=budget_s, rounds_max=12)
    longest_s = max(b.elapsed_s - a.elapsed_s for a, b in pairwise(told))
    assert cut.took_s <= budget_s + longest_s
    assert len(cut.points) + len(cut.missed) == len(whole.points)
    assert cut.missed
    assert all("the time was up" in why for why in cut.missed)


def test_a_batch_that_cannot_run_as_one_has_no_time() -> None:
    """More sequences than a step takes are not one step."""

    async def play() -> None:
        one = subject(msgspec.structs.replace(SETTINGS, sequences_max=4))
        await one.start()
        assert await one.decode(DecodeShape(sequence_count=8, prompt_tokens=32)) is None
        whole = await one.decode(DecodeShape(sequence_count=4, prompt_tokens=32))
        assert whole is not None
        await one.engine.stop()

    run_virtual(play())


def test_prompts_that_take_several_steps_have_no_time_of_one() -> None:
    """Four prompts of which a step takes two are not four together."""

    async def play() -> None:
        one = subject()
        await one.start()
        shape = PrefillShape(prompt_count=4, new_tokens=1024, cached_tokens=0)
        assert await one.prefill(shape) is None
        assert await one.prefill(shape) is None
        await one.engine.stop()

    run_virtual(play())


def test_a_refused_prompt_ends_the_survey() -> None:
    """An error of the engine is told as it is."""

    async def play() -> None:
        one = subject()
        await one.start()
        try:
            with pytest.raises(ContextTooLong):
                await one.prefill(PrefillShape(prompt_count=1, new_tokens=9000, cached_tokens=0))
        finally:
            await one.engine.stop()

    run_virtual(play())


def test_an_engine_that_dies_ends_the_survey() -> None:
    """What runs ends in an error, and so does the survey."""

    async def play() -> None:
        engine = SimulatedEngine(SETTINGS, worker_id=WorkerId("w"), fabric=Fabric("one"))
        one = Subject(engine, model="any", token_ids=range(300, 4000))
        await one.start()

        def crash_in_the_middle(progress: Progress) -> None:
            if progress.measured_count == 5:
                engine.crash()

        with pytest.raises(EngineFailed):
            await survey(one, budget_s=LONG_S, quick=True, tell=crash_in_the_middle)
        await engine.stop()

    run_virtual(play())


def test_an_engine_that_was_not_started_has_no_facts() -> None:
    """Asking for them is a mistake that is told."""
    with pytest.raises(EngineFailed):
        _ = subject().info
