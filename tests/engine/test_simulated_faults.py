"""What goes wrong in a simulated engine goes wrong as in a real one."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from services.domain.errors import EngineFailed, InternalFault, KvCorrupt, Saturated
from services.domain.handoff import Ticket
from services.domain.ids import WorkerId
from services.domain.stream import FinishReason
from services.engine.port import DecodeJob, PrefillJob
from services.engine.simulated import SimulatedEngine
from services.runtime.clock import run_virtual
from tests.engine.simulated_bench import (
    SETTINGS,
    ask,
    engine_of,
    now_s,
    right_tokens,
    station,
    two,
)


def wrong_block_count(ticket: Ticket) -> Ticket:
    """Name too few blocks."""
    return replace(ticket, block_count=ticket.block_count - 1)


def wrong_connector(ticket: Ticket) -> Ticket:
    """Carry what another engine kind needs."""
    return replace(ticket, connector='{"remote_block_ids": []}')


@pytest.mark.parametrize("spoil", [wrong_block_count, wrong_connector])
def test_unreadable_ticket_kills_the_engine(spoil: object) -> None:
    """A malformed ticket that nobody checked takes the whole decode engine down, as with vLLM."""

    async def story() -> None:
        assert callable(spoil)
        async with two() as pair:
            request, bystander = ask(50), ask(20, max_tokens=500)
            ticket, _ = await pair.prefill.prefill(request)
            pair.decode.engine.submit(DecodeJob(request=bystander))
            pair.decode.engine.submit(DecodeJob(request=request, ticket=spoil(ticket)))
            for name in (request.request_id, bystander.request_id):
                assert (await pair.decode.end_of(name)).finish is FinishReason.ERROR
            with pytest.raises(EngineFailed):
                await pair.decode.engine.check_health()

    run_virtual(story())


def test_ticket_of_another_prompt_poisons_silently() -> None:
    """The wrong prompt's ticket gives wrong tokens, now and for later readers of the cache, as with vLLM."""

    async def story() -> None:
        async with two() as pair:
            request, other = ask(50), ask(50)
            ticket, _ = await pair.prefill.prefill(other)
            assert await pair.decode.decode(request, ticket=ticket) != right_tokens(request)
            later = ask(request.prompt_token_ids)
            assert await pair.decode.decode(later) != right_tokens(later)
            assert engine_of(pair.decode).drop_cache()
            clean = ask(request.prompt_token_ids)
            assert await pair.decode.decode(clean) == right_tokens(clean)

    run_virtual(story())


def test_without_checks_changed_blocks_give_wrong_tokens() -> None:
    """With `kv_check_frac` at 0 a change stays unseen, as in vLLM: tokens are wrong, now and later."""

    async def story() -> None:
        async with two(msgspec.structs.replace(SETTINGS, kv_check_frac=0.0)) as pair:
            request = ask(70)
            ticket, _ = await pair.prefill.prefill(request)
            assert ticket.checks == ()
            engine_of(pair.decode).corrupt_next_pulls(1, place=0)
            assert await pair.decode.decode(request, ticket=ticket) != right_tokens(request)
            later = ask(request.prompt_token_ids)
            assert await pair.decode.decode(later) != right_tokens(later)
            assert pair.decode.heard.kv_checks == []

    run_virtual(story())


def test_only_sampled_blocks_are_compared() -> None:
    """A change in a block outside of the sample is missed; the sample's own last block never is."""

    async def story() -> None:
        async with two(msgspec.structs.replace(SETTINGS, kv_check_blocks=1)) as pair:
            for place, found in ((0, False), (-1, True)):
                request = ask(70)
                ticket, _ = await pair.prefill.prefill(request)
                engine_of(pair.decode).corrupt_next_pulls(1, place=place)
                pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
                final = await pair.decode.end_of(request.request_id)
                assert isinstance(final.error, KvCorrupt) is found
                assert pair.decode.heard.kv_checks[-1].matched is not found

    run_virtual(story())


def test_dropped_cache_is_announced() -> None:
    """The cache can be dropped only while nobody uses it; listeners are told."""

    async def story() -> None:
        async with station() as alone:
            request = ask(50, max_tokens=30)
            alone.engine.submit(DecodeJob(request=request))
            await alone.spoken(request.request_id, 1)
            assert not engine_of(alone).drop_cache()
            await alone.end_of(request.request_id)
            assert alone.heard.readable
            assert engine_of(alone).drop_cache()
            await alone.until(lambda: not alone.heard.readable)

    run_virtual(story())


def test_frozen_engine_is_silent_until_it_thaws() -> None:
    """A hung engine says nothing, not even of aborts; when it goes on, nothing is lost."""

    async def story() -> None:
        async with station() as alone:
            request, dropped = ask(50, max_tokens=30), ask(50, max_tokens=30)
            alone.engine.submit(DecodeJob(request=request))
            alone.engine.submit(DecodeJob(request=dropped))
            await alone.spoken(dropped.request_id, 3)
            engine_of(alone).freeze()
            said = len(alone.heard.steps)
            alone.engine.abort(dropped.request_id)
            await asyncio.sleep(SETTINGS.health_timeout_s / 2)
            assert len(alone.heard.steps) == said
            engine_of(alone).thaw()
            await alone.engine.check_health()
            assert (await alone.end_of(dropped.request_id)).finish is FinishReason.ABORTED
            await alone.end_of(request.request_id)
            assert alone.heard.tokens(request.request_id) == right_tokens(request)

    run_virtual(story())


def test_health_check_gives_a_frozen_engine_up() -> None:
    """An engine that does not answer in time is dead: its jobs end in errors."""

    async def story() -> None:
        async with station() as alone:
            request = ask(50, max_tokens=30)
            alone.engine.submit(DecodeJob(request=request))
            engine_of(alone).freeze()
            with pytest.raises(EngineFailed):
                await alone.engine.check_health()
            assert now_s() == pytest.approx(SETTINGS.health_timeout_s)
            assert isinstance((await alone.end_of(request.request_id)).error, EngineFailed)

    run_virtual(story())


def test_jobs_are_bounded() -> None:
    """One job too many is refused by name, and the others go on."""

    async def story() -> None:
        async with station(msgspec.structs.replace(SETTINGS, jobs_max=2)) as alone:
            requests = [ask(20) for _ in range(3)]
            for request in requests:
                alone.engine.submit(DecodeJob(request=request))
            ends = [await alone.end_of(r.request_id) for r in requests]
            assert [type(e.error) for e in ends] == [type(None), type(None), Saturated]

    run_virtual(story())


def test_engine_must_be_started_first() -> None:
    """A job before `start` is a bug of the caller."""
    with pytest.raises(InternalFault):
        SimulatedEngine(SETTINGS, worker_id=WorkerId("w")).submit(PrefillJob(request=ask(5)))
