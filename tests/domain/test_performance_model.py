"""The performance model: one price for a prompt however it is asked; published formulas to the letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.performance import PRESETS, PrefillChunk

MOCKER = PRESETS["dynamo-mocker"]


@given(
    st.sampled_from(sorted(PRESETS)), st.integers(1, 40_000), st.integers(0, 20_000), st.integers(1, 9_000)
)
def test_a_prompt_costs_the_sum_of_its_steps(name: str, new: int, cached: int, budget: int) -> None:
    """Priced at once or step by step, a prompt alone takes the same time."""
    model = PRESETS[name]
    steps_s, done = 0.0, cached
    while done < cached + new:
        tokens = min(budget, cached + new - done)
        steps_s += model.prefill_s([PrefillChunk(new_tokens=tokens, context_tokens=done)])
        done += tokens
    whole_s = model.prompt_s(prompt_tokens=cached + new, cached_tokens=cached, step_tokens_max=budget)
    assert whole_s == pytest.approx(steps_s)


@given(
    st.sampled_from(sorted(PRESETS)), st.integers(1, 40_000), st.integers(0, 20_000), st.integers(1, 9_000)
)
def test_a_prompt_among_others_costs_no_more_than_alone(
    name: str, new: int, cached: int, budget: int
) -> None:
    """And something."""
    asked = {"prompt_tokens": cached + new, "cached_tokens": cached, "step_tokens_max": budget}
    assert 0.0 < PRESETS[name].shared_s(**asked) <= PRESETS[name].prompt_s(**asked)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_prompts_that_fill_a_step_cost_that_step(name: str) -> None:
    """Eight of 1,024 tokens take 8,192 in one step, together as long as their shares say."""
    model = PRESETS[name]
    chunks = [PrefillChunk(new_tokens=1_024, context_tokens=0)] * 8
    share_s = model.shared_s(prompt_tokens=1_024, cached_tokens=0, step_tokens_max=8_192)
    assert 8 * share_s == pytest.approx(model.prefill_s(chunks))


@pytest.mark.parametrize("tokens", [1, 640, 8_192])
def test_the_mocker_prefills_by_its_published_formula(tokens: int) -> None:
    """In ms: 4.209989e-07 t^2 + 1.518344e-02 t + 16.50142 for t tokens of any number of prompts."""
    expected_ms = 4.209989e-07 * tokens**2 + 1.518344e-02 * tokens + 16.50142
    halves = [tokens // 2, tokens - tokens // 2]
    for chunks in ([tokens], halves):
        took_s = MOCKER.prefill_s(PrefillChunk(new_tokens=n, context_tokens=99) for n in chunks)
        assert took_s * 1e3 == pytest.approx(expected_ms)


@pytest.mark.parametrize("used_frac", [0.0, 0.25, 1.0])
def test_the_mocker_decodes_by_its_published_formula(used_frac: float) -> None:
    """In ms: -25.74 u^2 + 54.01 u + 5.74 for a share u of its KV in use."""
    context_tokens = round(used_frac * 16_384 * 64)
    took_s = MOCKER.decode_s(sequence_count=9, context_tokens=context_tokens)
    assert took_s * 1e3 == pytest.approx(-25.74 * used_frac**2 + 54.01 * used_frac + 5.74)


@given(st.sampled_from(sorted(PRESETS)), st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_paced_model_takes_so_many_times_as_long(name: str, prefill: float, decode: float) -> None:
    """Every prefill and every decode step is longer by its factor."""
    model = PRESETS[name]
    paced = model.paced(prefill=prefill, decode=decode)
    chunks = [PrefillChunk(new_tokens=300, context_tokens=200), PrefillChunk(new_tokens=7, context_tokens=0)]
    assert paced.prefill_s(chunks) == pytest.approx(model.prefill_s(chunks) * prefill)
    loaded = {"sequence_count": 9, "context_tokens": 4_000}
    assert paced.decode_s(**loaded) == pytest.approx(model.decode_s(**loaded) * decode)
    assert paced.transfer_s(10_000) == model.transfer_s(10_000)
