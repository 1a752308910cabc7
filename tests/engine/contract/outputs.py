"""Tokens of an engine and how they end."""

import asyncio
import math

from services.domain.request import Sampling
from services.domain.stream import FinishReason
from services.engine.port import PrefillJob
from tests.engine.bench import Bench, Pair, greedy


class OutputContract:
    """Tokens and how they end."""

    def test_output_runs_to_max_tokens_and_ends_once(self, bench: Bench) -> None:
        """A request gets max_tokens tokens and one final delta that says LENGTH."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(40, max_tokens=24)
            tokens = await pair.decode.decode(request)
            assert len(tokens) == 24
            assert pair.decode.heard.deltas[request.request_id][-1].finish is FinishReason.LENGTH
            await pair.until_empty()

        bench.run(scenario)

    def test_first_delta_tells_what_the_prompt_cost(self, bench: Bench) -> None:
        """A computed prompt reports cached tokens and prefill time, on the first delta only."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(40)
            await pair.decode.decode(request)
            first, *others = pair.decode.heard.deltas[request.request_id]
            assert first.cached_tokens == 0
            assert first.local_prefill_s is not None
            assert first.local_prefill_s > 0
            assert all(d.cached_tokens is None and d.local_prefill_s is None for d in others)

        bench.run(scenario)

    def test_max_tokens_of_one(self, bench: Bench) -> None:
        """One token and its end come together; prefill then gives no ticket and keeps no block."""

        async def scenario(pair: Pair) -> None:
            prompt = bench.prompt(33)
            local, remote = (bench.request(prompt, max_tokens=1) for _ in range(2))
            tokens = await pair.decode.decode(local)
            pair.prefill.engine.submit(PrefillJob(request=remote))
            final = await pair.prefill.end_of(remote.request_id)
            assert final.finish is FinishReason.LENGTH
            assert final.token_ids == tokens
            assert len(tokens) == 1
            assert pair.prefill.heard.prefilled[remote.request_id].ticket is None
            await pair.until_empty()

        bench.run(scenario)

    def test_stop_token_ends_at_the_first_token(self, bench: Bench) -> None:
        """A stop token may be the first one: it is reported, and nothing is handed over."""

        async def scenario(pair: Pair) -> None:
            prompt = bench.prompt(21)
            (first, *_) = await pair.decode.decode(bench.request(prompt))
            stopping = greedy(8, stop=[first])
            local, remote = (bench.request(prompt, sampling=stopping) for _ in range(2))
            assert await pair.decode.decode(local) == (first,)
            assert pair.decode.heard.deltas[local.request_id][-1].finish is FinishReason.STOP
            pair.prefill.engine.submit(PrefillJob(request=remote))
            final = await pair.prefill.end_of(remote.request_id)
            assert (final.token_ids, final.finish) == ((first,), FinishReason.STOP)
            await pair.until_empty()

        bench.run(scenario)

    def test_min_tokens_holds_a_stop_token_back(self, bench: Bench) -> None:
        """A stop token is not written before min_tokens, wherever the first token comes from."""

        async def scenario(pair: Pair) -> None:
            prompt = bench.prompt(21)
            (stop, *_) = await pair.decode.decode(bench.request(prompt))
            held = greedy(12, stop=[stop], min_tokens=5)
            whole = await pair.decode.decode(bench.request(prompt, sampling=held))
            assert len(whole) >= 5
            assert stop not in whole[:5]
            split = await pair.disaggregated(bench.request(prompt, sampling=held), early=True)
            assert split == whole

        bench.run(scenario)

    def test_logprobs_are_reported_when_asked_for(self, bench: Bench) -> None:
        """Each token has its log-probability and at most the asked number of alternatives."""

        async def scenario(pair: Pair) -> None:
            sampling = Sampling(max_tokens=6, temperature=0.0, ignore_eos=True, logprobs_count=3)
            request = bench.request(20, sampling=sampling)
            tokens = await pair.decode.decode(request)
            said = [p for d in pair.decode.heard.deltas[request.request_id] for p in d.logprobs]
            assert tuple(p.token_id for p in said) == tokens
            for entry in said:
                assert entry.logprob <= 0
                assert 1 <= len(entry.top) <= 3
                assert entry.top[0] == (entry.token_id, entry.logprob), "greedy takes the likeliest"
                values = [value for _, value in entry.top]
                assert values == sorted(values, reverse=True)
                assert sum(map(math.exp, values)) <= 1.0001

        bench.run(scenario)

    def test_emitted_tokens_are_continued(self, bench: Bench) -> None:
        """Generation goes on behind emitted tokens, repeats none and counts them in max_tokens."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            prompt = bench.prompt(size + 5)
            whole = await pair.decode.decode(bench.request(prompt, max_tokens=2 * size))
            for count in (1, size - 5, size, 2 * size - 1):
                request = bench.request(prompt, max_tokens=2 * size)
                rest = await pair.prefill.decode(request, emitted=whole[:count])
                assert rest == whole[count:]
            await pair.until_empty()

        bench.run(scenario)

    def test_many_requests_share_steps(self, bench: Bench) -> None:
        """Requests that run together are reported together: sink calls grow with steps, not with tokens."""

        async def scenario(pair: Pair) -> None:
            station = pair.decode
            requests = [bench.request(30 + i, max_tokens=32) for i in range(8)]
            before = len(station.heard.steps)
            await asyncio.gather(*(station.decode(r) for r in requests))
            calls = len(station.heard.steps) - before
            assert calls <= 32 + 2 * len(requests)

        bench.run(scenario)
