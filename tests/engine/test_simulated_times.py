"""The simulated engine takes the time of the performance model, and its tokens from the oracle."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from services.domain.performance import PRESETS, PrefillChunk
from services.engine.port import DecodeJob
from services.runtime.clock import run_virtual
from tests.engine.simulated_bench import (
    SETTINGS,
    ask,
    now_s,
    right_tokens,
    station,
    two,
)

MODEL = PRESETS["h200-llama-3.1-8b-fp8"]


def test_steps_take_the_time_of_the_model() -> None:
    """Prefill, each decode step and a transfer last exactly as the performance model says."""

    async def story() -> None:
        async with two() as pair:
            request = ask(200, max_tokens=3)
            await pair.prefill.prefill(request)
            prefill_s = MODEL.prefill_s([PrefillChunk(new_tokens=200, context_tokens=0)])
            assert now_s() == pytest.approx(prefill_s)
            ticket = pair.prefill.heard.prefilled[request.request_id].ticket
            await pair.decode.decode(request, ticket=ticket)
            decode_s = sum(MODEL.decode_s(sequence_count=1, context_tokens=200 + i) for i in range(3))
            transfer_s = MODEL.transfer_s(13 * 16 * 131_072)
            assert now_s() == pytest.approx(prefill_s + transfer_s + decode_s)

    run_virtual(story())


def test_long_prompts_take_as_many_steps_as_the_budget_asks_for() -> None:
    """Chunked prefill takes what the model predicts for one prompt alone."""

    async def story() -> None:
        async with station() as alone:
            await alone.decode(ask(1500, max_tokens=1))
            assert now_s() == pytest.approx(
                MODEL.prompt_s(prompt_tokens=1500, cached_tokens=0, step_tokens_max=256)
            )

    run_virtual(story())


def test_speedup_divides_all_durations_and_is_published() -> None:
    """Ten times as fast is ten times as fast, and routers are told so."""

    async def story(speedup: float) -> float:
        async with two(msgspec.structs.replace(SETTINGS, speedup=speedup)) as pair:
            request = ask(range(300, 400))
            await pair.disaggregated(request, early=True)
            published = pair.decode.info.performance
            assert published.decode_step_s == pytest.approx(MODEL.decode_step_s / speedup)
            assert published.transfer_bytes_per_s == pytest.approx(MODEL.transfer_bytes_per_s * speedup)
            return now_s()

    assert run_virtual(story(10.0)) == pytest.approx(run_virtual(story(1.0)) / 10)


def test_pull_does_not_stop_running_requests() -> None:
    """While blocks move, another request goes on at its own pace."""

    async def story() -> None:
        slow = msgspec.structs.replace(SETTINGS, performance=replace(MODEL, transfer_bytes_per_s=1e9))
        async with two(slow) as pair:
            running, pulled = ask(20, max_tokens=100), ask(1600)
            ticket, _ = await pair.prefill.prefill(pulled)
            pair.decode.engine.submit(DecodeJob(request=running))
            await pair.decode.spoken(running.request_id, 1)
            spoken_before, began_s = len(pair.decode.heard.tokens(running.request_id)), now_s()
            pair.decode.engine.submit(DecodeJob(request=pulled, ticket=ticket))
            await pair.decode.spoken(pulled.request_id, 1)
            assert now_s() - began_s > 0.2
            written = len(pair.decode.heard.tokens(running.request_id)) - spoken_before
            assert written >= (now_s() - began_s) / MODEL.decode_s(sequence_count=2, context_tokens=1800)

    run_virtual(story())


def test_output_is_the_oracles_even_when_blocks_run_out() -> None:
    """Preempted and recomputed, handed over or not, each request gets its own tokens and frees its blocks."""

    async def story() -> None:
        tight = msgspec.structs.replace(SETTINGS, kv_blocks=40, context_tokens_max=600)
        async with two(tight) as pair:
            requests = [ask(30 + 11 * i, max_tokens=90) for i in range(16)]
            got = await asyncio.gather(
                *(
                    pair.disaggregated(r, early=i % 4 == 0) if i % 2 else pair.decode.decode(r)
                    for i, r in enumerate(requests)
                )
            )
            assert list(got) == [right_tokens(r) for r in requests]
            await pair.until_empty()

    run_virtual(story())
