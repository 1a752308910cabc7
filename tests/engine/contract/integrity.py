"""Handed-over KV is compared with what was computed, before a token is computed from it."""

from dataclasses import replace

import pytest

from services.domain.blocks import blocks_for, hash_blocks
from services.domain.errors import KvCorrupt
from services.domain.integrity import KvChecked
from services.domain.request import InferenceRequest
from services.domain.stream import FinishReason
from services.engine.port import DecodeJob
from tests.engine.bench import Bench, Pair


async def refused(pair: Pair, request: InferenceRequest, job: DecodeJob) -> None:
    """Run a job whose pull must be found changed, and prove that nothing of it is left."""
    assert job.ticket is not None
    source = job.ticket.prefill_worker_id
    before = len(pair.decode.heard.kv_checks)
    pair.decode.engine.submit(job)
    final = await pair.decode.end_of(request.request_id)
    assert final.finish is FinishReason.ERROR
    assert isinstance(final.error, KvCorrupt), final
    assert final.error.worker_id == source
    assert pair.decode.heard.tokens(request.request_id) == (), "nothing was computed from changed blocks"
    assert pair.decode.heard.kv_checks[before:] == [
        KvChecked(source=source, epoch=job.ticket.epoch, matched=False)
    ]
    await pair.until_empty()


class IntegrityContract:
    """A sample of the blocks is fingerprinted by prefill and compared by decode."""

    def test_ticket_carries_fingerprints_of_a_sample(self, bench: Bench) -> None:
        """At most `kv_check_blocks` blocks, in order, the last one among them."""

        async def scenario(pair: Pair) -> None:
            size = pair.prefill.info.limits.block_size_tokens
            for length in (1, size, 2 * size + 1, 20 * size):
                ticket, _ = await pair.prefill.prefill(bench.request(length))
                places = [check.block_index for check in ticket.checks]
                assert places == sorted(set(places))
                assert len(places) == min(4, blocks_for(length, size))
                assert places[-1] == ticket.block_count - 1
                assert all(len(check.digests) == 1 for check in ticket.checks)
                pair.prefill.engine.release(ticket.ticket_id)
            await pair.until_empty()

        bench.run(scenario)

    @pytest.mark.parametrize("early", [False, True], ids=["decode-samples-first", "first-token-early"])
    def test_intact_blocks_match(self, bench: Bench, early: bool) -> None:
        """Every pull of a checked handoff is compared once and matches, at and around block borders."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            for length in (1, size - 1, size, size + 1, 2 * size, 40 * size + 3):
                before = len(pair.decode.heard.kv_checks)
                request = bench.request(length)
                ticket, first = await pair.prefill.prefill(request)
                emitted = first.token_ids if early else ()
                await pair.decode.decode(request, ticket=ticket, emitted=emitted)
                found = pair.decode.heard.kv_checks[before:]
                source = ticket.prefill_worker_id
                assert found == [KvChecked(source=source, epoch=ticket.epoch, matched=True)], length
            assert not pair.prefill.heard.kv_checks
            await pair.until_empty()

        bench.run(scenario)

    def test_blocks_in_the_own_cache_are_not_compared(self, bench: Bench) -> None:
        """A prompt whose beginning decode holds already matches too: only pulled blocks are compared."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            common = bench.prompt(10 * size)
            await pair.decode.decode(bench.request(common))
            request = bench.request((*common, *bench.prompt(3)))
            ticket, _ = await pair.prefill.prefill(request)
            tokens = await pair.decode.decode(request, ticket=ticket)
            assert pair.decode.heard.kv_checks[-1].matched
            assert tokens == await pair.prefill.decode(bench.request(request.prompt_token_ids))

        bench.run(scenario)

    @pytest.mark.parametrize("early", [False, True], ids=["decode-samples-first", "first-token-early"])
    def test_a_block_changed_on_the_way_is_found(self, bench: Bench, early: bool) -> None:
        """The job ends in KvCorrupt before any token; computed again it is exact, and the engine lives."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            for length in (5, size, 3 * size + 7, 4 * size):
                request = bench.request(length)
                whole = await pair.prefill.decode(bench.request(request.prompt_token_ids))
                ticket, first = await pair.prefill.prefill(request)
                await bench.corrupt_next_pull(pair.decode.engine)
                emitted = first.token_ids if early else ()
                job = DecodeJob(request=request, ticket=ticket, emitted_token_ids=emitted)
                await refused(pair, request, job)
                again = bench.request(request.prompt_token_ids)
                assert emitted + await pair.decode.decode(again, emitted=emitted) == whole
                assert pair.decode.heard.deltas[again.request_id][0].cached_tokens == 0
            await pair.decode.engine.check_health()

        bench.run(scenario)

    def test_a_difference_makes_the_whole_cache_unreadable(self, bench: Bench) -> None:
        """What was cached before is not found any more, even while it is in use; those who use it go on."""

        async def scenario(pair: Pair) -> None:
            station = pair.decode
            size = station.info.limits.block_size_tokens
            old, busy = bench.request(3 * size), bench.request(2 * size, max_tokens=64)
            await station.decode(old)
            station.engine.submit(DecodeJob(request=busy))
            await station.spoken(busy.request_id, 2)
            request = bench.request(2 * size + 1)
            ticket, _ = await pair.prefill.prefill(request)
            changed = replace(
                ticket,
                checks=tuple(replace(check, digests=(check.digests[0] ^ 1,)) for check in ticket.checks),
            )
            station.engine.submit(DecodeJob(request=request, ticket=changed))
            final = await station.end_of(request.request_id)
            assert isinstance(final.error, KvCorrupt)
            for before in (old, busy):
                blocks = hash_blocks(before.prompt_token_ids, block_size_tokens=size, scope=before.scope)
                await station.until(lambda blocks=blocks: not station.heard.readable & set(blocks))  # type: ignore[misc]
            again = bench.request(old.prompt_token_ids)
            await station.decode(again)
            assert station.heard.deltas[again.request_id][0].cached_tokens == 0
            await station.end_of(busy.request_id)
            undisturbed = await pair.prefill.decode(bench.request(busy.prompt_token_ids, max_tokens=64))
            assert station.heard.tokens(busy.request_id) == undisturbed
            await pair.until_empty()

        bench.run(scenario)

    def test_without_fingerprints_a_change_stays_unseen(self, bench: Bench) -> None:
        """What the other tests find is a real change: unchecked, it gives other tokens with a normal end."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            request = bench.request(3 * size + 5, max_tokens=24)
            whole = await pair.prefill.decode(bench.request(request.prompt_token_ids, max_tokens=24))
            ticket, _ = await pair.prefill.prefill(request)
            await bench.corrupt_next_pull(pair.decode.engine, place=1)
            before = len(pair.decode.heard.kv_checks)
            assert await pair.decode.decode(request, ticket=replace(ticket, checks=())) != whole
            assert pair.decode.heard.kv_checks[before:] == []
            await pair.until_empty()

        bench.run(scenario)
