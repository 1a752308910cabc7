"""What vLLM itself answers with wrong tokens is found by the fingerprints of the blocks."""

import asyncio
from dataclasses import replace

import pytest

from services.domain.errors import KvCorrupt
from services.domain.ids import RequestId, WorkerId
from services.engine.port import DecodeJob, PrefillJob
from services.engine.vllm.adapter import VllmEngine
from tests.engine.bench import Pair, started
from tests.engine.vllm.live.rig import DEADLINE_S, VllmRig, settings

pytestmark = [pytest.mark.live, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


def test_blocks_recycled_after_the_lease_are_found(rig: VllmRig) -> None:
    """A ticket shown to the engine a second time, its blocks holding other prompts by now, ends in KvCorrupt.

    Nothing of Baton does that (the decode phase refuses such a ticket): it is the race which the fingerprints
    are there for. vLLM reads whatever the blocks hold and goes on.
    """

    async def scenario(pair: Pair) -> None:
        request = rig.request(500, max_tokens=16)
        whole = await pair.prefill.decode(rig.request(request.prompt_token_ids, max_tokens=16))
        ticket, _ = await pair.prefill.prefill(request)
        assert await pair.decode.decode(request, ticket=ticket) == whole
        await pair.until_empty()
        others = [rig.request(1500) for _ in range(24)]  # more blocks than the cache has
        for other in others:
            pair.prefill.engine.submit(PrefillJob(request=other))
        for other in others:
            await pair.prefill.end_of(other.request_id)
            kept = pair.prefill.heard.prefilled[other.request_id].ticket
            assert kept is not None
            pair.prefill.engine.release(kept.ticket_id)
        again = replace(request, request_id=RequestId("again"), scope=replace(request.scope, salt="new"))
        pair.decode.engine.submit(DecodeJob(request=again, ticket=ticket))
        assert isinstance((await pair.decode.end_of(again.request_id)).error, KvCorrupt)
        clean = rig.request(request.prompt_token_ids, max_tokens=16)
        assert await pair.decode.decode(clean) == whole
        await pair.decode.engine.check_health()
        await pair.until_empty()

    rig.run(scenario)


def test_mismatches_among_many_pulls_hit_only_their_own(rig: VllmRig) -> None:
    """Of twelve pulls at once one is changed on the way: it ends in KvCorrupt, the others are exact."""

    async def scenario(pair: Pair) -> None:
        prompts = [rig.prompt(100 + 7 * i) for i in range(12)]
        whole = [await pair.prefill.decode(rig.request(p)) for p in prompts]
        requests = [rig.request(p) for p in prompts]
        tickets = [(await pair.prefill.prefill(r))[0] for r in requests]
        await rig.corrupt_next_pull(pair.decode.engine)
        for request, ticket in zip(requests, tickets, strict=True):
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
        ends = await asyncio.gather(*(pair.decode.end_of(r.request_id) for r in requests))
        changed = [i for i, final in enumerate(ends) if isinstance(final.error, KvCorrupt)]
        assert len(changed) == 1
        for i, request in enumerate(requests):
            if i not in changed:
                assert pair.decode.heard.tokens(request.request_id) == whole[i]
        await pair.until_empty()

    rig.run(scenario)


def test_an_engine_may_compute_changed_blocks_again_itself(rig: VllmRig) -> None:
    """With `kv_load_failure: recompute` the job goes on with exact tokens; the mismatch is told."""

    async def scenario(pair: Pair) -> None:
        engine = VllmEngine(settings(1, kv_load_failure="recompute"), worker_id=WorkerId("recomputing"))
        try:
            station = await started(engine, DEADLINE_S)
            for length, early in ((5, False), (64, True), (150, False)):
                request = rig.request(length, max_tokens=16)
                whole = await pair.prefill.decode(rig.request(request.prompt_token_ids, max_tokens=16))
                ticket, first = await pair.prefill.prefill(request)
                changed = replace(ticket, checks=tuple(replace(c, digests=(1,)) for c in ticket.checks))
                emitted = first.token_ids if early else ()
                assert emitted + await station.decode(request, ticket=changed, emitted=emitted) == whole
                assert not station.heard.kv_checks.pop().matched
            await station.until_empty()
            await pair.until_empty()
        finally:
            await engine.stop()

    rig.run(scenario)
