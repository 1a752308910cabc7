"""The fit finds the model behind the points, keeps what they do not show, and says how far it is off."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.performance import PRESETS, PerformanceModel
from services.domain.worker import WorkerLimits
from services.engine.calibration.fit import fit, solve
from services.engine.calibration.points import (
    DecodePoint,
    Point,
    PrefillPoint,
    TransferPoint,
    decodes,
    judge,
    prefills,
)
from services.engine.calibration.shapes import decode_shapes, handoff_lengths, prefill_shapes

LIMITS = WorkerLimits(
    block_size_tokens=16,
    kv_blocks=59_064,
    kv_bytes_per_token=131_072,
    context_tokens_max=131_072,
    sequences_max=256,
    step_tokens_max=8_192,
    compatibility="any",
)
KV_TOKENS = float(LIMITS.kv_blocks * LIMITS.block_size_tokens)
BEFORE = PRESETS["cpu-baton-tiny"]

MODELS = st.builds(
    PerformanceModel,
    prefill_step_s=st.floats(1e-3, 3e-2),
    prefill_token_s=st.floats(5e-6, 1e-4),
    prefill_attention_s=st.floats(1e-10, 1e-8),
    decode_step_s=st.floats(1e-3, 3e-2),
    decode_sequence_s=st.floats(1e-6, 1e-3),
    decode_context_token_s=st.floats(1e-9, 1e-6),
    handoff_s=st.floats(1e-3, 1e-1),
    transfer_bytes_per_s=st.floats(1e8, 1e11),
)


def points_of(model: PerformanceModel, *, limits: WorkerLimits = LIMITS, quick: bool = False) -> list[Point]:
    """Make the points that an engine of this model gives, exactly."""
    points: list[Point] = []
    for prompt in prefill_shapes(limits, quick=quick):
        done = PrefillPoint(
            prompt_count=prompt.prompt_count,
            new_tokens=prompt.new_tokens,
            cached_tokens=prompt.cached_tokens,
            step_tokens_max=limits.step_tokens_max,
            took_s=1.0,
        )
        points.append(replace(done, took_s=done.predicted_s(model)))
    for batch in decode_shapes(limits, quick=quick):
        step = DecodePoint(
            sequence_count=batch.sequence_count, context_tokens=batch.computed_tokens, took_s=1.0
        )
        points.append(replace(step, took_s=step.predicted_s(model)))
    for tokens in handoff_lengths(limits, quick=quick):
        size = tokens * limits.kv_bytes_per_token
        points.append(TransferPoint(size_bytes=size, took_s=model.transfer_s(size)))
    return points


def assert_close(found: PerformanceModel, wanted: PerformanceModel, *, rel: float) -> None:
    """Compare all constants; one that is 0 must be found to be 0."""
    for one in fields(PerformanceModel):
        value = getattr(wanted, one.name)
        assert getattr(found, one.name) == pytest.approx(value, rel=rel), one.name


@given(model=MODELS, quick=st.booleans())
def test_the_model_behind_exact_points_is_found(model: PerformanceModel, quick: bool) -> None:
    """Whatever the constants are, exact points give them back, and no square that is not there."""
    found = fit(points_of(model, quick=quick), before=BEFORE, kv_tokens=KV_TOKENS)
    assert found.fitted == ("prefill", "decode", "transfer")
    assert_close(found.model, model, rel=1e-4)


@given(model=MODELS, data=st.data())
def test_noise_moves_the_fit_by_no_more_than_itself(model: PerformanceModel, data: st.DataObject) -> None:
    """With every time off by up to 3 %, predictions are off by little more than that."""
    exact = points_of(model, quick=True)
    noise = data.draw(st.lists(st.floats(0.97, 1.03), min_size=len(exact), max_size=len(exact)))
    noisy = [replace(point, took_s=point.took_s * off) for point, off in zip(exact, noise, strict=True)]
    found = fit(noisy, before=BEFORE, kv_tokens=KV_TOKENS)
    for pick in (prefills, decodes):
        spread = judge(found.model, pick(exact))
        assert spread is not None
        assert spread.mean_frac < 0.04


@given(model=MODELS, prefill_square=st.floats(1e-9, 1e-8))
def test_a_prefill_square_is_found_where_it_matters(model: PerformanceModel, prefill_square: float) -> None:
    """Prompts computed together and behind prefixes tell a square of the step from attention."""
    bent = replace(model, prefill_attention_s=0.0, prefill_square_s=prefill_square)
    assert_close(fit(points_of(bent), before=BEFORE, kv_tokens=KV_TOKENS).model, bent, rel=1e-4)


def test_a_decode_that_bends_down_is_found() -> None:
    """Such as the peer's, which still rises with a full cache."""
    peers = replace(PRESETS["dynamo-mocker"], decode_least_s=0.0)
    found = fit(points_of(peers), before=BEFORE, kv_tokens=1_048_576.0)
    for name in ("decode_step_s", "decode_context_token_s", "decode_context_square_s"):
        assert getattr(found.model, name) == pytest.approx(getattr(peers, name), rel=1e-4)


def test_no_bend_is_taken_that_falls_before_the_cache_is_full() -> None:
    """Predictions for fuller batches than were measured must not become shorter."""
    peers = replace(PRESETS["dynamo-mocker"], decode_least_s=0.0)
    found = fit(points_of(peers), before=BEFORE, kv_tokens=10 * 1_048_576.0)
    assert found.model.decode_context_square_s >= 0.0


@given(
    times=st.lists(st.floats(1e-4, 10.0), min_size=8, max_size=8),
    counts=st.lists(st.integers(1, 1000), min_size=8, max_size=8),
)
def test_no_constant_is_negative(times: list[float], counts: list[int]) -> None:
    """Whatever was measured, more work never takes less time."""
    columns = [[1.0] * 8, [float(count) for count in counts], [float(count) ** 2 for count in counts]]
    assert (solve(columns, times) >= 0.0).all()


def test_what_was_not_measured_is_kept_and_said() -> None:
    """Two points of decode make no model; the constants before stay, with a word about it."""
    points = points_of(PRESETS["h200-llama-3.1-8b-fp8"])
    few: list[Point] = [*prefills(points), *decodes(points)[:2]]
    found = fit(few, before=BEFORE, kv_tokens=KV_TOKENS)
    assert found.fitted == ("prefill",)
    assert found.model.decode_step_s == BEFORE.decode_step_s
    assert found.model.transfer_bytes_per_s == BEFORE.transfer_bytes_per_s
    assert any(note.startswith("decode:") and "2 points" in note for note in found.notes)
    assert any(note.startswith("transfer:") and "not measured" in note for note in found.notes)


def test_transfers_that_do_not_grow_with_the_bytes_give_no_rate() -> None:
    """A rate from noise would be infinite or negative."""
    points = [TransferPoint(size_bytes=2**i, took_s=0.02 / (i + 1)) for i in range(10, 20)]
    found = fit(points, before=BEFORE, kv_tokens=KV_TOKENS)
    assert found.fitted == ()
    assert any("does not grow" in note for note in found.notes)


def test_the_error_is_a_share_of_what_was_measured() -> None:
    """A model that says twice the time of one point and the right one of three is off by a quarter."""
    model = PRESETS["h200-llama-3.1-8b-fp8"]
    points = decodes(points_of(model))[:4]
    points[0] = replace(points[0], took_s=points[0].took_s / 2)
    spread = judge(model, points)
    assert spread is not None
    assert spread.point_count == 4
    assert spread.median_frac == pytest.approx(0.0)
    assert spread.mean_frac == pytest.approx(0.25)
    assert spread.p90_frac == spread.largest_frac == pytest.approx(1.0)
    assert judge(model, []) is None


SMALL = st.builds(
    WorkerLimits,
    block_size_tokens=st.sampled_from([1, 16, 32, 64]),
    kv_blocks=st.integers(4, 4096),
    kv_bytes_per_token=st.just(1024),
    context_tokens_max=st.integers(64, 8192),
    sequences_max=st.integers(1, 128),
    step_tokens_max=st.integers(128, 8192),
    compatibility=st.just("any"),
)


@given(limits=SMALL, quick=st.booleans())
def test_every_shape_fits_the_engine(limits: WorkerLimits, quick: bool) -> None:
    """Nothing is asked that the engine must refuse or preempt."""
    room = limits.kv_blocks * limits.block_size_tokens
    for prompt in prefill_shapes(limits, quick=quick):
        length = prompt.cached_tokens + prompt.new_tokens
        assert length + 1 < limits.context_tokens_max
        assert prompt.prompt_count * length <= room
        assert prompt.prompt_count <= limits.sequences_max
        assert prompt.prompt_count == 1 or prompt.computed_tokens <= limits.step_tokens_max
        assert prompt.cached_tokens % limits.block_size_tokens == 0
    for batch in decode_shapes(limits, quick=quick):
        length = batch.prompt_tokens + batch.output_tokens(limits.step_tokens_max)
        assert length <= limits.context_tokens_max
        assert batch.sequence_count * length <= room
        assert batch.sequence_count <= limits.sequences_max
