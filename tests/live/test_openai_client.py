"""The official `openai` client against real workers: prefill here, decode there, one answer."""

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.live.cluster import RunningCluster
from tests.live.outputs import MODEL

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

HELLO: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You run relay races and answer in one sentence."},
    {"role": "user", "content": "What happens to the baton when one runner is tired and the next is fast?"},
]
PATHS = ("local", "remote")
MANY_TOKENS = 3000
"""An answer so long that a test is over before it is."""


def by(path: str, *, endless: bool = False) -> dict[str, object]:
    """Say where the prompt is prefilled, and whether the model's own end counts."""
    return {"baton": {"prefill": path}, "ignore_eos": endless}


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_says_the_same_as_the_whole_answer(client: openai.AsyncOpenAI, path: str) -> None:
    """The chunks of a greedy stream are the text of the whole answer; usage comes last and counts both."""
    whole = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=30, temperature=0, extra_body=by(path, endless=True)
    )
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=30,
        temperature=0,
        extra_body=by(path, endless=True),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["length"]
    usage = chunks[-1].usage
    assert usage is not None
    assert whole.usage is not None
    assert not chunks[-1].choices
    assert usage.completion_tokens == whole.usage.completion_tokens == 30
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + 30


async def test_completions_take_text_and_token_ids(client: openai.AsyncOpenAI) -> None:
    """The older API answers a text, its stream and the second prompt of a list alike."""
    asked = {"model": MODEL, "max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}
    one = await client.completions.create(prompt="The baton", **asked)  # type: ignore[call-overload]
    stream = await client.completions.create(prompt="The baton", stream=True, **asked)  # type: ignore[call-overload]
    several = await client.completions.create(prompt=["A relay", "The baton"], **asked)  # type: ignore[call-overload]
    assert "".join([chunk.choices[0].text async for chunk in stream]) == one.choices[0].text
    assert [c.index for c in several.choices] == [0, 1]
    assert several.choices[1].text == one.choices[0].text
    ids = await client.completions.create(prompt=[5, 300, 400, 500], **asked)  # type: ignore[call-overload]
    assert ids.usage.prompt_tokens == 4


@pytest.mark.parametrize("path", PATHS)
async def test_a_seed_repeats_and_choices_differ(client: openai.AsyncOpenAI, path: str) -> None:
    """One seed, one text; with n each choice has a seed of its own, and the first that of the call."""
    texts = []
    for _ in range(2):
        answer = await client.chat.completions.create(
            model=MODEL, messages=HELLO, n=3, seed=5, temperature=1.5, max_tokens=16, extra_body=by(path)
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        texts.append([choice.message.content for choice in answer.choices])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    alone = await client.chat.completions.create(
        model=MODEL, messages=HELLO, seed=6, temperature=1.5, max_tokens=16, extra_body=by(path)
    )
    assert alone.choices[0].message.content == texts[0][1]


@pytest.mark.parametrize("path", PATHS)
async def test_a_stop_string_ends_the_answer(
    cluster: RunningCluster, client: openai.AsyncOpenAI, path: str
) -> None:
    """The output ends before the stop string, the reason is stop, and the engine stops writing."""
    asked = {"model": MODEL, "messages": HELLO, "temperature": 0, "extra_body": by(path, endless=True)}
    free = await client.chat.completions.create(max_tokens=40, **asked)  # type: ignore[call-overload]
    text = free.choices[0].message.content
    stop = text[len(text) // 2 :][:4]
    stopped = await client.chat.completions.create(max_tokens=MANY_TOKENS, stop=stop, **asked)  # type: ignore[call-overload]
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    await cluster.becomes_idle()


@pytest.mark.parametrize("path", PATHS)
async def test_log_probabilities_cover_the_text(client: openai.AsyncOpenAI, path: str) -> None:
    """One report per token, also for the one that prefill wrote; a greedy token is the likeliest."""
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=20,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        extra_body=by(path),
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert answer.usage is not None
    assert len(told.content) == answer.usage.completion_tokens
    said = b"".join(bytes(token.bytes or []) for token in told.content)
    text = answer.choices[0].message.content
    assert text
    assert said.decode(errors="replace").startswith(text)  # the token that ends an answer has no text in it
    for token in told.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].bytes == token.bytes


@pytest.mark.parametrize("path", PATHS)
async def test_a_repeated_prompt_reports_cached_tokens(client: openai.AsyncOpenAI, path: str) -> None:
    """The second of two equal prompts, and a third that shares its beginning, were partly computed before."""
    cached: list[int | None] = []
    for end in ("Why?", "Why?", "And then what?"):
        answer = await client.completions.create(
            model=MODEL,
            prompt=f"By {path}: " + "the runner keeps the baton and runs on, " * 12 + end,
            max_tokens=2,
            extra_body={"baton": {"prefill": path}},
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0
    assert cached[1] == cached[2]
    assert cached[1]


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    """The served model is listed and can be looked up; another is not found."""
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_errors_have_the_clients_own_classes(client: openai.AsyncOpenAI) -> None:
    """Unknown model, wrong value, prompt too long: the classes that the client raises for OpenAI."""
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nobody", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        await client.completions.create(model=MODEL, prompt=[400] * 100_000)
    assert long.value.code == "context_length_exceeded"


@pytest.mark.parametrize("path", PATHS)
async def test_leaving_in_the_middle_frees_everything(
    cluster: RunningCluster, client: openai.AsyncOpenAI, path: str
) -> None:
    """A client that closes its stream leaves no sequence, no block and no task, and no more tokens."""
    before = await cluster.counter("baton_engine_tokens_total", "decode-0")
    answer = await client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=MANY_TOKENS,
        stream=True,
        extra_body=by(path, endless=True),
    )
    stream = answer.parse()
    async for _ in stream:
        break
    await stream.close()
    await cluster.becomes_idle()
    record = await cluster.record(answer.headers["x-request-id"])
    assert (record.finish, record.placement and record.placement.path) == ("aborted", path)
    assert await cluster.counter("baton_engine_tokens_total", "decode-0") - before < MANY_TOKENS


async def test_leaving_at_any_moment_frees_everything(
    cluster: RunningCluster, client: openai.AsyncOpenAI
) -> None:
    """Wherever a remote prefill is when its client leaves (queue, engine, handoff), all of it ends."""

    async def ask(index: int) -> None:
        await client.completions.create(
            model=MODEL,
            prompt=[300 + index, *[400 + index % 50] * 900],
            max_tokens=MANY_TOKENS,
            extra_body=by("remote", endless=True),
        )

    calls = [asyncio.create_task(ask(index)) for index in range(24)]
    await cluster.becomes(lambda state: any(worker.load.running_count for worker in state.workers))
    for call in calls:
        call.cancel()
        await client.models.retrieve(MODEL)  # gives the others time to get on
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    await cluster.becomes_idle()
    again = await client.completions.create(model=MODEL, prompt=[300, *[400] * 900], max_tokens=2)
    assert again.usage is not None
    assert again.usage.completion_tokens > 0
