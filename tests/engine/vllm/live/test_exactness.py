"""Disaggregated output is token-exact with an aggregated engine, and what goes wrong says so."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from services.domain.blocks import hash_blocks
from services.domain.errors import (
    InvalidRequest,
    KvLost,
    ServingError,
    TicketInvalid,
    UnknownModel,
    Unsupported,
)
from services.domain.ids import WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import FinishReason
from services.engine.port import DecodeJob
from services.engine.vllm.adapter import VllmEngine
from tests.engine.bench import Pair, greedy, started
from tests.engine.vllm.live.rig import DEADLINE_S, VllmRig, engine_pid, settings

pytestmark = [pytest.mark.live, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

LENGTHS = (1, 15, 16, 17, 31, 32, 33, 64, 320, 1024, 1500)
"""Around block borders of 16 and 32, on them, and far longer than one prefill chunk (512)."""


@pytest.mark.parametrize("early", [False, True], ids=["decode-samples-first", "first-token-early"])
@pytest.mark.parametrize("length", LENGTHS)
def test_greedy_output_is_exact_at_every_length(rig: VllmRig, length: int, early: bool) -> None:
    """The blocks that decode pulled are those it would have computed, whether or not it samples first."""

    async def scenario(pair: Pair) -> None:
        prompt = rig.prompt(length)
        whole = await pair.prefill.decode(rig.request(prompt, max_tokens=24))
        assert await pair.disaggregated(rig.request(prompt, max_tokens=24), early=early) == whole
        again = await pair.disaggregated(rig.request(prompt, max_tokens=24), early=early)
        assert again == whole, "now with the prefix in both caches"

    rig.run(scenario)


@pytest.mark.parametrize("length", LENGTHS)
def test_seeded_output_is_exact_at_every_length(rig: VllmRig, length: int) -> None:
    """A seeded request gives the same tokens when decode samples all of them from the pulled prompt."""

    async def scenario(pair: Pair) -> None:
        sampling = Sampling(max_tokens=24, temperature=0.9, top_p=0.95, seed=length, ignore_eos=True)
        prompt = rig.prompt(length)
        whole = await pair.prefill.decode(rig.request(prompt, sampling=sampling))
        assert await pair.disaggregated(rig.request(prompt, sampling=sampling), early=False) == whole

    rig.run(scenario)


def test_salted_caches_are_apart_and_exact(rig: VllmRig) -> None:
    """A salted prompt is handed over like any other, and its blocks are told of under its own scope."""

    async def scenario(pair: Pair) -> None:
        prompt = rig.prompt(100)
        whole = await pair.prefill.decode(rig.request(prompt))
        salted = rig.request(prompt, salt="tenant")
        assert await pair.disaggregated(salted, early=True) == whole
        own = set(hash_blocks(prompt, block_size_tokens=32, scope=salted.scope))
        shared = set(hash_blocks(prompt, block_size_tokens=32, scope=rig.scope))
        await pair.decode.until(lambda: own <= pair.decode.heard.readable)
        assert not shared & pair.decode.heard.readable

    rig.run(scenario)


def test_sink_calls_grow_with_steps_not_with_tokens(rig: VllmRig) -> None:
    """32 sequences that run together are reported by about one call per engine step."""

    async def scenario(pair: Pair) -> None:
        station = pair.decode
        requests = [rig.request(20 + i, max_tokens=40) for i in range(32)]
        before = len(station.heard.steps)
        await asyncio.gather(*(station.decode(r) for r in requests))
        calls = len(station.heard.steps) - before
        # All prompts fit into three steps of 512 tokens; then each step writes a token of every sequence.
        assert calls <= 40 + 8
        assert sum(len(station.heard.tokens(r.request_id)) for r in requests) == 32 * 40

    rig.run(scenario)


def test_ticket_that_cannot_serve_never_reaches_the_engine(rig: VllmRig) -> None:
    """Too few or too many blocks, a second emitted token or broken JSON end in TicketInvalid."""

    async def scenario(pair: Pair) -> None:
        request = rig.request(70)
        ticket, first = await pair.prefill.prefill(request)
        (token,) = first.token_ids
        wrong = [
            (replace(ticket, connector=ticket.connector.replace("[[", "[[9,")), ()),
            (replace(ticket, connector="{"), ()),
            (replace(ticket, prompt_tokens=69), ()),
            (ticket, (token, token)),
        ]
        for bad, emitted in wrong:
            again = rig.request(request.prompt_token_ids)
            pair.decode.engine.submit(DecodeJob(request=again, ticket=bad, emitted_token_ids=emitted))
            final = await pair.decode.end_of(again.request_id)
            assert isinstance(final.error, TicketInvalid), bad
        pair.prefill.engine.release(ticket.ticket_id)
        await pair.decode.engine.check_health()

    rig.run(scenario)


def test_refusals_name_their_reason(rig: VllmRig) -> None:
    """What vLLM would crash on or refuse ends in a typed error, and the engine lives on."""

    async def scenario(pair: Pair) -> None:
        foreign = rig.request(10)
        wrong: dict[InferenceRequest, type[ServingError]] = {
            rig.request([5, 4096]): InvalidRequest,  # outside the vocabulary: would read outside the table
            replace(foreign, scope=replace(foreign.scope, model="other")): UnknownModel,
            replace(rig.request(10), scope=replace(rig.scope, adapter="none")): UnknownModel,
            rig.request(10, sampling=replace(greedy(4), json_schema="{}")): Unsupported,
            rig.request(10, sampling=replace(greedy(4), top_p=7.0)): InvalidRequest,
            rig.request(10, sampling=replace(greedy(4), logprobs_count=500)): InvalidRequest,
        }
        for request, kind in wrong.items():
            pair.decode.engine.submit(DecodeJob(request=request))
            final = await pair.decode.end_of(request.request_id)
            assert isinstance(final.error, kind), final
        await pair.decode.engine.check_health()

    rig.run(scenario)


def test_blocks_of_a_dead_engine_are_lost_and_decode_lives(rig: VllmRig) -> None:
    """When the engine that holds the blocks was killed, the pull ends in KvLost and names its worker."""

    async def scenario(pair: Pair) -> None:
        engine = VllmEngine(settings(0), worker_id=WorkerId("doomed"))
        try:
            doomed = await started(engine, DEADLINE_S)
            request = rig.request(90)
            ticket, _ = await doomed.prefill(request)
            os.kill(engine_pid(engine), signal.SIGKILL)
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            final = await pair.decode.end_of(request.request_id)
            assert final.finish is FinishReason.ERROR
            assert final.error == KvLost(
                message=final.error.message if final.error else "", worker_id="doomed"
            )
        finally:
            await engine.stop()
        await pair.decode.engine.check_health()
        whole = await pair.prefill.decode(rig.request(request.prompt_token_ids))
        assert await pair.decode.decode(rig.request(request.prompt_token_ids)) == whole

    rig.run(scenario)
