"""The official `openai` client, against a real server."""

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.gateway.edge.conftest import Edge
from tests.gateway.edge.model_folder import MODEL, WORDS

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me of the tortoise."}]


async def test_chat_answers_whole(edge: Edge) -> None:
    """A call without stream gets one body with text, reason and usage."""
    answer = await edge.openai.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 9


async def test_a_stream_says_the_same_as_the_whole_answer(edge: Edge) -> None:
    """The chunks of a stream, put together, are the text of the whole answer."""
    whole = await edge.openai.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=50)
    stream = await edge.openai.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=50, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    assert all(c.usage is None for c in chunks)


async def test_a_stream_reports_usage_when_asked(edge: Edge) -> None:
    """With include_usage the last chunk has the usage and no choice; cached tokens are told."""
    for cached in (False, True):
        stream = await edge.openai.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
        usage = chunks[-1].usage
        assert usage is not None
        assert not chunks[-1].choices
        assert usage.completion_tokens == 5
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == (usage.prompt_tokens - 1 if cached else 0)


async def test_completions_answer_and_stream(edge: Edge) -> None:
    """The older API gives the same text whole and streamed; max_tokens is 16 when not given."""
    whole = await edge.openai.completions.create(model=MODEL, prompt="The hare")
    stream = await edge.openai.completions.create(model=MODEL, prompt="The hare", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 16


async def test_a_prompt_may_be_texts_or_token_ids(edge: Edge) -> None:
    """One text, several, one prompt of ids and several: choices come in the order of the prompts."""
    ids = edge.assets.tokenizer.encode("The hare").ids
    one = await edge.openai.completions.create(model=MODEL, prompt="The hare")
    same = await edge.openai.completions.create(model=MODEL, prompt=ids)
    assert same.choices[0].text == one.choices[0].text
    several = await edge.openai.completions.create(model=MODEL, prompt=["The hare", "Two plus"], n=2)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text == one.choices[0].text
    assert several.choices[2].text != one.choices[0].text
    listed = await edge.openai.completions.create(model=MODEL, prompt=[ids, ids[:1]])
    assert listed.choices[0].text == one.choices[0].text


async def test_choices_stream_interleaved_and_complete(edge: Edge) -> None:
    """With n, each choice has its role, its text and its end once, and the prompt counts once."""
    stream = await edge.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        n=3,
        seed=7,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts = ["", "", ""]
    ends: list[int] = []
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends.append(choice.index)
    assert sorted(ends) == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = await edge.openai.chat.completions.create(model=MODEL, messages=HELLO, seed=9, max_tokens=12)
    assert texts[2] == alone.choices[0].message.content
    assert usage is not None
    assert alone.usage is not None
    assert usage.completion_tokens == 36
    assert usage.prompt_tokens == alone.usage.prompt_tokens


async def test_a_stop_string_ends_the_answer(edge: Edge) -> None:
    """The output ends before the stop string, streamed or not, and the engine's request is cancelled."""
    for stop in ("walked", ["xyz", "slowly b"]):
        whole = await edge.openai.completions.create(model=MODEL, prompt="a", stop=stop, max_tokens=300)
        stream = await edge.openai.completions.create(
            model=MODEL, prompt="a", stop=stop, max_tokens=300, stream=True
        )
        text = "".join([c.choices[0].text async for c in stream])
        assert text == whole.choices[0].text
        assert whole.choices[0].finish_reason == "stop"
        assert (stop if isinstance(stop, str) else stop[1]) not in text
    assert edge.serving.cancelled_count == 4
    assert edge.serving.active_count == 0


async def test_chat_logprobs_cover_the_text(edge: Edge) -> None:
    """The bytes of the told tokens are the bytes of the text, each with its alternatives."""
    answer = await edge.openai.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=40, logprobs=True, top_logprobs=3
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert len(told.content) == 40
    assert all(len(t.top_logprobs) == 3 for t in told.content)
    said = b"".join(bytes(t.bytes or []) for t in told.content)
    assert said.decode(errors="replace") == answer.choices[0].message.content


async def test_completion_logprobs_have_offsets(edge: Edge) -> None:
    """Each token of a completion is told with where its text begins."""
    answer = await edge.openai.completions.create(model=MODEL, prompt="b", max_tokens=12, logprobs=2)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.text_offset is not None
    assert len(choice.logprobs.tokens) == 12
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token.rstrip("\ufffd"))


async def test_characters_of_several_tokens_arrive_whole(edge: Edge) -> None:
    """No chunk has half a character, and the text is that of the script."""
    stream = await edge.openai.completions.create(model=MODEL, prompt="c", max_tokens=400, stream=True)
    parts = [c.choices[0].text async for c in stream]
    assert not any("\ufffd" in part for part in parts[:-1])
    assert "".join(parts)[60 : 60 + len(WORDS)] in WORDS * 4


async def test_models_are_listed_and_described(edge: Edge) -> None:
    """The list and the description agree, and an unknown name is 404."""
    listed = [m async for m in edge.openai.models.list()]
    assert [m.id for m in listed] == [MODEL]
    assert await edge.openai.models.retrieve(MODEL) == listed[0]
    with pytest.raises(openai.NotFoundError):
        await edge.openai.models.retrieve("nobody")


async def test_errors_have_the_clients_own_classes(edge: Edge) -> None:
    """Wrong calls raise what the client raises for OpenAI, with code and param."""
    with pytest.raises(openai.NotFoundError) as unknown:
        await edge.openai.chat.completions.create(model="nobody", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await edge.openai.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        await edge.openai.completions.create(model=MODEL, prompt="word " * 2000)
    assert long.value.code == "context_length_exceeded"


async def test_leaving_a_stream_cancels_the_request(edge: Edge) -> None:
    """A client that closes its stream in the middle ends the request behind the edge."""
    stream = await edge.openai.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=400, stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(10):
        while edge.serving.active_count:
            await edge.openai.models.list()
    assert edge.serving.cancelled_count == 1
