"""Messages from worker to gateway grow with engine steps, not with tokens."""

import asyncio

import openai
import pytest

from tests.live.cluster import RunningCluster
from tests.live.outputs import MODEL

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

REQUESTS = 32
OUTPUT_TOKENS = 400


async def test_frames_grow_with_steps(cluster: RunningCluster, client: openai.AsyncOpenAI) -> None:
    """32 requests at once write 32 times the tokens of one, in no more than a few times its messages."""

    async def ask(index: int) -> None:
        answer = await client.completions.create(
            model=MODEL,
            prompt=[300 + index, 400, 500],
            max_tokens=OUTPUT_TOKENS,
            extra_body={"ignore_eos": True, "baton": {"prefill": "local"}},
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == OUTPUT_TOKENS

    async def counts() -> tuple[float, float]:
        return (
            await cluster.counter("baton_engine_step_frames_total", "decode-0"),
            await cluster.counter("baton_engine_tokens_total", "decode-0"),
        )

    await cluster.becomes_idle()
    frames_before, tokens_before = await counts()
    await ask(0)
    frames_alone, tokens_alone = await counts()
    await asyncio.gather(*(ask(index) for index in range(REQUESTS)))
    frames, tokens = await counts()
    assert tokens_alone - tokens_before == OUTPUT_TOKENS
    assert tokens - tokens_alone == REQUESTS * OUTPUT_TOKENS
    assert frames_alone - frames_before <= OUTPUT_TOKENS + 1
    # Requests do not arrive in one step: the last begins when the first is on its way.
    assert frames - frames_alone <= (OUTPUT_TOKENS + 1) * 4
