"""Leases between simulated engines: on one fabric, and between processes."""

import asyncio
from dataclasses import replace

import msgspec
import pytest

from services.domain.errors import EngineFailed, KvLost
from services.domain.ids import EngineEpoch, RequestId, TicketId, WorkerId
from services.domain.stream import FinishReason
from services.engine.port import DecodeJob
from services.engine.simulated import Fabric, SimulatedEngine
from services.runtime.clock import run_virtual
from tests.engine.bench import greedy
from tests.engine.simulated_bench import (
    DEADLINE_S,
    SETTINGS,
    ask,
    engine_of,
    now_s,
    right_tokens,
    two,
)

SHORT = msgspec.structs.replace(SETTINGS, lease_s=0.5, sequences_max=1, step_tokens_max=64, kv_blocks=128)
"""One sequence at a time, and leases that end soon."""


def test_pull_after_the_lease_is_refused() -> None:
    """Nobody reads blocks whose lease ended: the job ends in KvLost."""

    async def story() -> None:
        async with two() as pair:
            request = ask(50)
            ticket, _ = await pair.prefill.prefill(request)
            await asyncio.sleep(ticket.lease_s + 0.001)
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            assert isinstance((await pair.decode.end_of(request.request_id)).error, KvLost)
            await pair.until_empty()

    run_virtual(story())


def test_ticket_is_good_for_one_pull() -> None:
    """Of two jobs with one ticket the first gets its tokens and the second ends in KvLost."""

    async def story() -> None:
        async with two() as pair:
            request = ask(50)
            twin = replace(request, request_id=RequestId("twin"))
            ticket, _ = await pair.prefill.prefill(request)
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            pair.decode.engine.submit(DecodeJob(request=twin, ticket=ticket))
            await pair.decode.end_of(request.request_id)
            assert pair.decode.heard.tokens(request.request_id) == right_tokens(request)
            assert isinstance((await pair.decode.end_of(twin.request_id)).error, KvLost)
            await pair.until_empty()

    run_virtual(story())


@pytest.mark.parametrize("moment", ["before", "while it waits"])
def test_death_of_the_holder_loses_the_blocks(moment: str) -> None:
    """When the prefill engine is gone, before the pull or during it, the job ends in KvLost."""

    async def story() -> None:
        async with two() as pair:
            request = ask(50)
            ticket, _ = await pair.prefill.prefill(request)
            if moment == "before":
                engine_of(pair.prefill).crash()
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            await asyncio.sleep(0.001)
            engine_of(pair.prefill).crash()
            final = await pair.decode.end_of(request.request_id)
            assert isinstance(final.error, KvLost)
            await pair.decode.until_empty()

    run_virtual(story())


def test_waiting_puller_keeps_the_lease() -> None:
    """A decode job that waits for room holds its lease past its duration, as heartbeats do."""

    async def story() -> None:
        async with two(SHORT) as pair:
            blocker, request = ask(20, max_tokens=2000), ask(200)
            pair.decode.engine.submit(DecodeJob(request=blocker))
            await pair.decode.spoken(blocker.request_id, 1)
            ticket, _ = await pair.prefill.prefill(request)
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            await asyncio.sleep(5 * SHORT.lease_s)
            assert pair.prefill.engine.load().leased_blocks == ticket.block_count
            pair.decode.engine.abort(blocker.request_id)
            final = await pair.decode.end_of(request.request_id)
            assert final.finish is FinishReason.LENGTH
            await pair.until_empty()

    run_virtual(story())


def test_lease_runs_again_when_its_puller_dies() -> None:
    """A decode engine that dies with a waiting puller does not keep the blocks for ever."""

    async def story() -> None:
        async with two() as pair:
            request = ask(50)
            ticket, _ = await pair.prefill.prefill(request)
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            engine_of(pair.decode).crash()
            assert isinstance((await pair.decode.end_of(request.request_id)).error, EngineFailed)
            assert pair.prefill.engine.load().leased_blocks == ticket.block_count
            await pair.prefill.until_empty()

    run_virtual(story())


def test_other_fabric_is_trusted_and_told() -> None:
    """Engines of two processes hand over: tokens are exact, and the pull ends the lease over loopback."""

    async def story() -> None:
        settings = msgspec.structs.replace(SETTINGS, side_channel_host="127.0.0.1", speedup=50.0)
        async with two(settings, fabrics=(Fabric(), Fabric())) as pair:
            request = ask(70)
            assert await pair.disaggregated(request, early=True) == right_tokens(request)
            await pair.until_empty()
            assert now_s() < began_s + settings.lease_s / 2

    loop_runner = asyncio.Runner()
    with loop_runner:
        began_s = loop_runner.get_loop().time()
        loop_runner.run(asyncio.wait_for(story(), DEADLINE_S))


def test_other_fabric_without_side_channel_keeps_its_lease() -> None:
    """Out of reach, a pulled lease simply ends by its own clock; a waiting puller counts it by its own."""

    async def story() -> None:
        async with two(SHORT, fabrics=(Fabric("here"), Fabric("there"))) as pair:
            pulled, late, blocker = ask(70), ask(70), ask(20, max_tokens=2000)
            assert await pair.disaggregated(pulled, early=True) == right_tokens(pulled)
            assert pair.prefill.engine.load().leased_blocks > 0
            await pair.prefill.until_empty()
            pair.decode.engine.submit(DecodeJob(request=blocker))
            await pair.decode.spoken(blocker.request_id, 1)
            ticket, _ = await pair.prefill.prefill(late)
            pair.decode.engine.submit(DecodeJob(request=late, ticket=ticket))
            await asyncio.sleep(2 * SHORT.lease_s)
            pair.decode.engine.abort(blocker.request_id)
            assert isinstance((await pair.decode.end_of(late.request_id)).error, KvLost)

    run_virtual(story())


def test_side_channel_that_cannot_listen_refuses_the_start() -> None:
    """A host that is not this machine's is named in the error."""

    async def story() -> None:
        settings = msgspec.structs.replace(SETTINGS, side_channel_host="192.0.2.1")
        engine = SimulatedEngine(settings, worker_id=WorkerId("w"))
        with pytest.raises(EngineFailed, match="side_channel_host"):
            await engine.start(lambda _: None, lambda _: None)

    asyncio.run(story())


def test_epochs_and_tickets_are_never_reused() -> None:
    """Each life of an engine and each lease has its own name, the same in each run of a named fabric."""

    async def story() -> tuple[EngineEpoch, EngineEpoch, TicketId, TicketId]:
        async with two() as pair:
            first, _ = await pair.prefill.prefill(ask(20, sampling=greedy(4)))
            second, _ = await pair.prefill.prefill(ask(20, sampling=greedy(4)))
            return pair.prefill.info.epoch, pair.decode.info.epoch, first.ticket_id, second.ticket_id

    names = run_virtual(story())
    assert len(set(names)) == 4
    assert names == run_virtual(story())
