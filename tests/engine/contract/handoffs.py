"""Prefill on one engine, decode on another: exact tokens, leases that end."""

import asyncio

import pytest

from services.domain.blocks import blocks_for
from services.domain.handoff import check_ticket, prompt_digest
from services.domain.request import Sampling
from services.domain.stream import FinishReason
from services.domain.worker import WorkerLoad
from services.engine.port import DecodeJob
from tests.engine.bench import Bench, Pair


class HandoffContract:
    """Prefill on one engine, decode on another."""

    @pytest.mark.parametrize("early", [False, True], ids=["decode-samples-first", "first-token-early"])
    def test_disaggregated_output_is_exact(self, bench: Bench, early: bool) -> None:
        """Prefill here and decode there gives the tokens of one engine, at and around block borders."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            for length in (1, size - 1, size, size + 1, 2 * size, 5 * size + 3):
                prompt = bench.prompt(length)
                split = await pair.disaggregated(bench.request(prompt), early=early)
                whole = await pair.prefill.decode(bench.request(prompt))
                assert split == whole, f"prompt of {length} tokens"
            await pair.until_empty()

        bench.run(scenario)

    def test_seeded_output_is_exact(self, bench: Bench) -> None:
        """With a seed the tokens are the same wherever they are made, if decode samples the first one."""

        async def scenario(pair: Pair) -> None:
            sampling = Sampling(max_tokens=16, temperature=1.0, seed=7, ignore_eos=True)
            prompt = bench.prompt(45)
            whole = await pair.prefill.decode(bench.request(prompt, sampling=sampling))
            split = await pair.disaggregated(bench.request(prompt, sampling=sampling), early=False)
            other = Sampling(max_tokens=16, temperature=1.0, seed=8, ignore_eos=True)
            assert split == whole
            assert await pair.prefill.decode(bench.request(prompt, sampling=other)) != whole

        bench.run(scenario)

    def test_handoffs_at_once_do_not_mix(self, bench: Bench) -> None:
        """Many handoffs in flight together keep their own tokens, and all blocks come back."""

        async def scenario(pair: Pair) -> None:
            prompts = [bench.prompt(17 + 9 * i) for i in range(8)]
            whole = [await pair.prefill.decode(bench.request(p)) for p in prompts]
            split = await asyncio.gather(
                *(pair.disaggregated(bench.request(p), early=i % 2 == 0) for i, p in enumerate(prompts))
            )
            assert list(split) == whole
            await pair.until_empty()

        bench.run(scenario)

    def test_ticket_describes_its_prompt(self, bench: Bench) -> None:
        """A ticket passes the check for its own prompt and engine pair."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(50)
            ticket, first = await pair.prefill.prefill(request)
            limits = pair.prefill.info.limits
            digest = prompt_digest(request.prompt_token_ids, request.scope)
            assert ticket.epoch == pair.prefill.info.epoch
            assert ticket.request_id == request.request_id
            assert ticket.block_count == blocks_for(50, limits.block_size_tokens)
            assert ticket.kv_bytes >= 50 * limits.kv_bytes_per_token
            assert len(first.token_ids) == 1
            fault = check_ticket(
                ticket,
                digest=digest,
                prompt_tokens=50,
                emitted_count=1,
                age_s=0.0,
                compatibility=pair.decode.info.limits.compatibility,
                block_size_tokens=pair.decode.info.limits.block_size_tokens,
                already_used=False,
            )
            assert fault is None
            pair.prefill.engine.release(ticket.ticket_id)
            await pair.until_empty()

        bench.run(scenario)

    def test_pulled_prompt_is_not_reported_as_computed(self, bench: Bench) -> None:
        """Decode says nothing of cached tokens for a prompt it pulled; prefill has said it."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(50)
            ticket, first = await pair.prefill.prefill(request)
            assert first.cached_tokens == 0
            await pair.decode.decode(request, ticket=ticket)
            assert all(d.cached_tokens is None for d in pair.decode.heard.deltas[request.request_id])

        bench.run(scenario)

    def test_lease_holds_blocks_until_released(self, bench: Bench) -> None:
        """Blocks of a finished prefill stay until somebody says that nobody will pull."""

        async def scenario(pair: Pair) -> None:
            ticket, _ = await pair.prefill.prefill(bench.request(50))
            load = pair.prefill.engine.load()
            assert load.leased_blocks == ticket.block_count
            assert load.kv_used_blocks >= ticket.block_count
            pair.prefill.engine.release(ticket.ticket_id)
            await pair.until_empty()

        bench.run(scenario)

    def test_lease_expires(self, bench: Bench) -> None:
        """Blocks that nobody pulls or releases come back after the lease's duration."""

        async def scenario(pair: Pair) -> None:
            ticket, _ = await pair.prefill.prefill(bench.request(50))
            deadline_s = ticket.lease_s + pair.prefill.deadline_s
            await pair.prefill.until_load(lambda load: load == WorkerLoad(), deadline_s=deadline_s)

        bench.run(scenario)

    def test_aborted_pull_frees_both_engines(self, bench: Bench) -> None:
        """A decode job that is aborted as soon as it was submitted leaves no lease and no block behind."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(200)
            ticket, _ = await pair.prefill.prefill(request)
            pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
            pair.decode.engine.abort(request.request_id)
            final = await pair.decode.end_of(request.request_id)
            assert final.finish is FinishReason.ABORTED
            deadline_s = ticket.lease_s + pair.prefill.deadline_s
            await pair.prefill.until_load(lambda load: load == WorkerLoad(), deadline_s=deadline_s)
            await pair.decode.until_empty()

        bench.run(scenario)
