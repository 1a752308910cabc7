"""The oracle: which tokens a simulated engine must write."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import CacheScope
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import FinishReason
from services.engine.simulated import Expected, Vocabulary, expected_tokens
from services.engine.simulated.oracle import Continuation

VOCABULARY = Vocabulary(size=400, first_ordinary_id=300, eos_token_id=1, eos_every_tokens=12)
CONTEXT = 200

PROMPTS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40).map(tuple)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 60),
    min_tokens=st.integers(0, 10),
    temperature=st.sampled_from([0.0, 0.7]),
    seed=st.sampled_from([None, 1, 2]),
    stop_token_ids=st.lists(st.integers(300, 399), max_size=20).map(tuple),
    ignore_eos=st.booleans(),
)


def ask(
    prompt: Sequence[int], sampling: Sampling, *, name: str = "r", scope: CacheScope | None = None
) -> InferenceRequest:
    """Make a request."""
    return InferenceRequest(
        request_id=RequestId(name),
        scope=scope or CacheScope(model="m"),
        prompt_token_ids=tuple(prompt),
        sampling=sampling,
    )


def expected(request: InferenceRequest, emitted: Sequence[int] = ()) -> Expected:
    """Ask the oracle."""
    return expected_tokens(
        request, vocabulary=VOCABULARY, context_tokens_max=CONTEXT, emitted_token_ids=emitted
    )


@settings(deadline=None)
@given(PROMPTS, SAMPLINGS)
def test_output_obeys_its_sampling(prompt: tuple[int, ...], sampling: Sampling) -> None:
    """Length, stop tokens, minimum and vocabulary are kept, and the end names the right reason."""
    output = expected(ask(prompt, sampling))
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (VOCABULARY.eos_token_id,))}
    limit = min(sampling.max_tokens, CONTEXT - len(prompt))
    assert 1 <= len(output.token_ids) <= limit
    assert all(t == VOCABULARY.eos_token_id or 300 <= t < 400 for t in output.token_ids)
    assert not stops.intersection(output.token_ids[: sampling.min_tokens])
    assert not stops.intersection(output.token_ids[:-1])
    if output.finish is FinishReason.STOP:
        assert output.token_ids[-1] in stops
    else:
        assert len(output.token_ids) == limit


@settings(deadline=None)
@given(PROMPTS, SAMPLINGS, st.integers(0, 60))
def test_stateless_output_goes_on_behind_emitted_tokens(
    prompt: tuple[int, ...], sampling: Sampling, split: int
) -> None:
    """Without state from the prompt on, any tail is what a migrated request writes."""
    if sampling.state_starts_at_prompt:
        sampling = replace(sampling, seed=None)
    request = ask(prompt, sampling)
    whole = expected(request)
    split = min(split, len(whole.token_ids) - 1)
    rest = expected(request, whole.token_ids[:split])
    assert whole.token_ids[:split] + rest.token_ids == whole.token_ids
    assert rest.finish is whole.finish


@settings(deadline=None)
@given(PROMPTS)
def test_prefix_is_flat(prompt: tuple[int, ...]) -> None:
    """Greedy tokens do not depend on where the prompt ended: output as prompt continues the same text."""
    sampling = Sampling(max_tokens=20, temperature=0.0, ignore_eos=True)
    whole = expected(ask(prompt, sampling)).token_ids
    assert expected(ask((*prompt, *whole[:7]), sampling)).token_ids[:13] == whole[7:]


def test_seeded_output_restarts_when_its_first_token_is_given() -> None:
    """An engine that is handed the first token of a seeded request writes something else, as vLLM does."""
    request = ask(range(50), Sampling(max_tokens=30, temperature=1.0, seed=3, ignore_eos=True))
    whole = expected(request).token_ids
    assert expected(request, whole[:1]).token_ids != whole[1:]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"temperature": 0.5, "top_p": 0.9},
        {"temperature": 0.5, "top_k": 4},
        {"temperature": 0.5, "min_p": 0.1},
        {"temperature": 0.5, "seed": 1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"logit_bias": ((301, 5.0),)},
        {"json_schema": "{}"},
    ],
    ids=str,
)
def test_each_sampling_field_changes_the_tokens(change: dict[str, float]) -> None:
    """A field lost on its way to the engine shows as other tokens."""
    plain = Sampling(max_tokens=20, temperature=0.0, ignore_eos=True)
    base = replace(plain, temperature=0.5) if len(change) > 1 else plain
    changed = replace(plain, **change)  # type: ignore[arg-type]
    assert expected(ask(range(9), base)).token_ids != expected(ask(range(9), changed)).token_ids


def test_scope_prompt_and_name_matter() -> None:
    """Another model, another prompt or, without a seed, another request gives other tokens."""
    greedy = Sampling(max_tokens=20, temperature=0.0, ignore_eos=True)
    free = replace(greedy, temperature=1.0)
    base = expected(ask(range(9), greedy)).token_ids
    assert base == expected(ask(range(9), greedy, name="other")).token_ids
    assert base != expected(ask(range(9), greedy, scope=CacheScope(model="other"))).token_ids
    assert base != expected(ask(range(8, -1, -1), greedy)).token_ids
    assert expected(ask(range(9), free)) != expected(ask(range(9), free, name="other"))


def test_taint_changes_what_follows() -> None:
    """Wrong KV gives wrong tokens, and clean KV the right ones again."""
    request = ask(range(9), Sampling(max_tokens=20, temperature=0.0))
    right, wrong = (
        Continuation(request, vocabulary=VOCABULARY, context_tokens_max=CONTEXT) for _ in range(2)
    )
    wrong.taint(True)
    assert [right.draw() for _ in range(4)] != [wrong.draw() for _ in range(4)]


def test_sequences_end_now_and_then() -> None:
    """Ends of sequence come about as often as asked for, and never when turned off."""
    lengths = [
        len(expected(ask((i,), Sampling(max_tokens=150, temperature=0.0))).token_ids) for i in range(200)
    ]
    assert 9 < sum(lengths) / len(lengths) < 15
    never = replace(VOCABULARY, eos_every_tokens=0)
    endless = ask((1,), Sampling(max_tokens=150, temperature=0.0))
    assert len(expected_tokens(endless, vocabulary=never, context_tokens_max=CONTEXT).token_ids) == 150
