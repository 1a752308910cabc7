"""The prefix cache of an engine, and what its KV events say of it."""

from services.domain.blocks import hash_blocks
from tests.engine.bench import Bench, Pair


class CacheContract:
    """The prefix cache and what is told of it."""

    def test_second_identical_prompt_is_cached(self, bench: Bench) -> None:
        """A prompt seen before reuses its full blocks, except that the last token is computed again."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            for length in (3 * size, 3 * size + 1, 4 * size - 1):
                prompt = bench.prompt(length)
                first, second = bench.request(prompt), bench.request(prompt)
                assert await pair.decode.decode(first) == await pair.decode.decode(second)
                said = pair.decode.heard.deltas
                assert said[first.request_id][0].cached_tokens == 0
                assert said[second.request_id][0].cached_tokens == (length - 1) // size * size

        bench.run(scenario)

    def test_shared_prefix_is_cached(self, bench: Bench) -> None:
        """Another prompt with the same beginning reuses that; another scope reuses nothing."""

        async def scenario(pair: Pair) -> None:
            size = pair.prefill.info.limits.block_size_tokens
            common = bench.prompt(3 * size)
            await pair.prefill.decode(bench.request((*common, *bench.prompt(9))))
            other = bench.request((*common, *bench.prompt(2 * size)))
            ticket, first = await pair.prefill.prefill(other)
            assert first.cached_tokens == 3 * size
            pair.prefill.engine.release(ticket.ticket_id)
            secret = bench.request(other.prompt_token_ids, salt="secret")
            await pair.prefill.decode(secret)
            assert pair.prefill.heard.deltas[secret.request_id][0].cached_tokens == 0

        bench.run(scenario)

    def test_stored_blocks_are_the_full_ones(self, bench: Bench) -> None:
        """KV events name exactly the full blocks of prompt and output, in our own hashes."""

        async def scenario(pair: Pair) -> None:
            station = pair.decode
            size = station.info.limits.block_size_tokens
            before = set(station.heard.readable)
            request = bench.request(2 * size + 3, max_tokens=size)
            tokens = await station.decode(request)
            text = (*request.prompt_token_ids, *tokens)
            expected = hash_blocks(text, block_size_tokens=size, scope=request.scope)
            assert len(expected) == 3
            await station.until(lambda: set(expected) <= station.heard.readable)
            assert station.heard.readable - before == set(expected)

        bench.run(scenario)

    def test_pulled_blocks_are_stored(self, bench: Bench) -> None:
        """After a pull the decode engine tells of the prompt's full blocks as the prefill engine did."""

        async def scenario(pair: Pair) -> None:
            size = pair.decode.info.limits.block_size_tokens
            request = bench.request(4 * size + 1)
            expected = set(hash_blocks(request.prompt_token_ids, block_size_tokens=size, scope=request.scope))
            await pair.disaggregated(request, early=False)
            for station in (pair.prefill, pair.decode):
                await station.until(lambda heard=station.heard: expected <= heard.readable)  # type: ignore[misc]

        bench.run(scenario)
