"""A request goes to the worker that holds its prefix, and is told what that saved."""

import asyncio
from collections import Counter

import openai
import pytest

from services.engine.simulated.settings import SimulatedSettings
from tests.live.cluster import DEADLINE_S, RunningCluster
from tests.live.outputs import MODEL

PREFIX_TOKENS = 1024
CONVERSATIONS = 8
TURNS = 3
BLOCK_TOKENS = SimulatedSettings().block_size_tokens


async def ask(client: openai.AsyncOpenAI, ids: list[int], path: str) -> tuple[str, int]:
    """Ask once; give back the request's id and how many prompt tokens were cached."""
    answer = await client.completions.with_raw_response.create(
        model=MODEL, prompt=ids, max_tokens=3, extra_body={"baton": {"prefill": path}}
    )
    usage = answer.parse().usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None
    return answer.headers["x-request-id"], usage.prompt_tokens_details.cached_tokens


async def test_turns_of_a_conversation_stay_with_their_worker(simulated: RunningCluster) -> None:
    """Of four decode workers the one that read a beginning gets what begins so, and reuses all of it.

    KV events travel beside the answers, so the router may learn of a beginning one turn late; from then on
    each turn goes to a holder, and the record names the blocks that each candidate holds. A turn comes when
    the router sees nobody busy: a holder with work before it may rightly lose to an idle worker.
    """
    chosen = Counter[str]()
    async with simulated.openai() as client, asyncio.timeout(DEADLINE_S):
        for conversation in range(CONVERSATIONS):
            ids = [300 + conversation] * PREFIX_TOKENS
            readers: set[str] = set()
            reused_count = turn = 0
            while reused_count < TURNS:
                turn += 1
                await simulated.becomes_idle()
                request_id, cached = await ask(client, [*ids, *[400 + turn] * 10], "local")
                placement = (await simulated.record(request_id)).placement
                assert placement is not None
                held = {c.worker_id: c.overlap_blocks for c in placement.candidates if c.path == "local"}
                assert {worker for worker, blocks in held.items() if blocks} <= readers
                told = "\n".join(map(str, placement.candidates))
                assert held[placement.worker_id] == max(held.values()) == placement.overlap_blocks, told
                assert cached == (PREFIX_TOKENS if placement.worker_id in readers else 0)
                reused_count += placement.overlap_blocks == PREFIX_TOKENS // BLOCK_TOKENS
                readers.add(placement.worker_id)
            chosen[min(readers)] += 1
    assert len(chosen) > 1, "all conversations went to one worker, so staying there proves nothing"


@pytest.mark.live
@pytest.mark.timeout(600)
async def test_a_real_engine_reuses_a_prefix(cluster: RunningCluster, client: openai.AsyncOpenAI) -> None:
    """The same with real KV blocks: whoever reads the beginning first reuses it for the second request."""
    for path, base in (("local", 600), ("remote", 700)):
        ids = [base + i % 7 for i in range(PREFIX_TOKENS)]
        _, cold = await ask(client, ids, path)
        request_id, cached = await ask(client, [*ids, 800, 801], path)
        assert (cold, cached) == (0, PREFIX_TOKENS)
        record = await cluster.record(request_id)
        assert record.cached_tokens == PREFIX_TOKENS
