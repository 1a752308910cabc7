"""A request that goes on in another engine gets the tokens, and the log-probabilities, of the first one.

What the gateway does (`services.gateway.life`): greedy requests continue behind the tokens sent; where state
starts at the prompt (a seed, penalties, a grammar) all tokens are written again and those sent are dropped.
"""

import json

import pytest

from services.domain.ids import WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import TokenLogprob
from services.engine.port import DecodeJob
from services.engine.vllm.adapter import VllmEngine
from tests.engine.bench import Pair, Station, started
from tests.engine.vllm.live.rig import DEADLINE_S, VllmRig, settings

pytestmark = [pytest.mark.live, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

OUTPUT = 40
LOGPROB_TOLERANCE = 1e-4
"""float32 sums whose order depends on the batch and on how the prompt was cut into chunks."""
SCHEMA = json.dumps({
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
})  # fmt: skip


def said(station: Station, request: InferenceRequest) -> list[TokenLogprob]:
    """Log-probabilities of all tokens of a request, in order."""
    return [entry for delta in station.heard.deltas[request.request_id] for entry in delta.logprobs]


def assert_close(found: list[TokenLogprob], expected: list[TokenLogprob]) -> None:
    """Same tokens in the same ranks, values within the tolerance; a tie may fall either way."""
    assert [entry.token_id for entry in found] == [entry.token_id for entry in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=LOGPROB_TOLERANCE)
        values = [value for _, value in one.top]
        assert values == pytest.approx([value for _, value in other.top], abs=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("length", [20, 32, 100])
def test_greedy_logprobs_go_on_in_another_engine(rig: VllmRig, length: int) -> None:
    """Wherever the request is cut, tokens and log-probabilities behind the cut are those of the whole."""

    async def scenario(pair: Pair) -> None:
        sampling = Sampling(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True, logprobs_count=3)
        first = rig.request(length, sampling=sampling)
        whole = await pair.prefill.decode(first)
        expected = said(pair.prefill, first)
        assert len(expected) == OUTPUT
        for sent in (1, 7, 12, 31, OUTPUT - 1):
            rest = rig.request(first.prompt_token_ids, sampling=sampling)
            assert await pair.decode.decode(rest, emitted=whole[:sent]) == whole[sent:]
            assert_close(said(pair.decode, rest), expected[sent:])

    rig.run(scenario)


@pytest.mark.parametrize("early", [False, True], ids=["decode-samples-first", "first-token-early"])
def test_logprobs_survive_the_handoff(rig: VllmRig, early: bool) -> None:
    """Handed over, the first token's log-probabilities are prefill's or decode's, and equal either way."""

    async def scenario(pair: Pair) -> None:
        sampling = Sampling(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True, logprobs_count=2)
        alone = rig.request(70, sampling=sampling)
        whole = await pair.prefill.decode(alone)
        request = rig.request(alone.prompt_token_ids, sampling=sampling)
        ticket, first = await pair.prefill.prefill(request)
        emitted = first.token_ids if early else ()
        assert emitted + await pair.decode.decode(request, ticket=ticket, emitted=emitted) == whole
        entries = [*(first.logprobs if early else ()), *said(pair.decode, request)]
        assert_close(entries, said(pair.prefill, alone))

    rig.run(scenario)


@pytest.mark.parametrize("kind", ["seed", "penalties"])
def test_what_starts_at_the_prompt_is_written_again(rig: VllmRig, kind: str) -> None:
    """A second engine writes the same tokens from the prompt on: those sent can be dropped."""
    asked = {
        "seed": Sampling(max_tokens=OUTPUT, temperature=0.9, seed=5, ignore_eos=True, logprobs_count=1),
        "penalties": Sampling(
            max_tokens=OUTPUT, temperature=0.0, ignore_eos=True, frequency_penalty=0.7, logprobs_count=1
        ),
    }[kind]
    assert asked.state_starts_at_prompt

    async def scenario(pair: Pair) -> None:
        first = rig.request(50, sampling=asked)
        whole = await pair.prefill.decode(first)
        again = rig.request(first.prompt_token_ids, sampling=asked)
        assert await pair.decode.decode(again) == whole
        assert_close(said(pair.decode, again), said(pair.prefill, first))

    rig.run(scenario)


def test_structured_output_is_written_again_and_stays_valid(rig: VllmRig) -> None:
    """Written again, alone, in company or from pulled KV, a JSON object has the same tokens.

    Continued behind its first tokens it has others: the grammar starts at its root again, which is why the
    gateway never does that.
    """

    async def scenario(_: Pair) -> None:
        engines = [
            VllmEngine(settings(i, structured_output=True), worker_id=WorkerId(f"json-{i}")) for i in range(2)
        ]
        try:
            first, second = [await started(engine, DEADLINE_S) for engine in engines]
            sampling = Sampling(max_tokens=OUTPUT, temperature=0.0, json_schema=SCHEMA, logprobs_count=2)
            assert sampling.state_starts_at_prompt
            asked = rig.request(60, sampling=sampling)
            whole = await first.decode(asked)
            again = rig.request(asked.prompt_token_ids, sampling=sampling)
            neighbour = rig.request(90, max_tokens=OUTPUT)
            second.engine.submit(DecodeJob(request=neighbour))
            assert await second.decode(again) == whole
            assert_close(said(second, again), said(first, asked))
            pulled = rig.request(asked.prompt_token_ids, sampling=sampling, salt="pulled")
            ticket, _first = await first.prefill(pulled)
            assert await second.decode(pulled, ticket=ticket) == whole
            cut = rig.request(asked.prompt_token_ids, sampling=sampling)
            assert await second.decode(cut, emitted=whole[:5]) != whole[5:]
        finally:
            for engine in engines:
                await engine.stop()

    rig.run(scenario)
