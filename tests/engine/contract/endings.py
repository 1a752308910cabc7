"""Aborts, refusals, counters, stop and death of an engine."""

import asyncio

import pytest

from services.domain.errors import ContextTooLong, EngineFailed, InternalFault, InvalidRequest
from services.domain.ids import RequestId, TicketId
from services.domain.request import InferenceRequest
from services.domain.stream import FinishReason
from services.domain.worker import WorkerLoad
from services.engine.port import DecodeJob, PrefillJob
from tests.engine.bench import Bench, Pair


class EndingContract:
    """Aborts, refusals, counters, stop and death."""

    def test_abort_before_the_first_token(self, bench: Bench) -> None:
        """A job aborted at once ends as aborted, once, whichever kind it is."""

        async def scenario(pair: Pair) -> None:
            local, remote = bench.request(60, max_tokens=50), bench.request(60, max_tokens=50)
            pair.decode.engine.submit(DecodeJob(request=local))
            pair.decode.engine.abort(local.request_id)
            pair.prefill.engine.submit(PrefillJob(request=remote))
            pair.prefill.engine.abort(remote.request_id)
            assert (await pair.decode.end_of(local.request_id)).finish is FinishReason.ABORTED
            assert (await pair.prefill.end_of(remote.request_id)).finish is FinishReason.ABORTED
            assert pair.prefill.heard.prefilled[remote.request_id].ticket is None
            await pair.until_empty()

        bench.run(scenario)

    def test_abort_while_it_speaks(self, bench: Bench) -> None:
        """A job aborted in the middle ends as aborted, and its neighbour goes on undisturbed."""

        async def scenario(pair: Pair) -> None:
            station = pair.decode
            prompt = bench.prompt(30)
            alone = await pair.prefill.decode(bench.request(prompt, max_tokens=64))
            stays, goes = bench.request(prompt, max_tokens=64), bench.request(30, max_tokens=400)
            station.engine.submit(DecodeJob(request=goes))
            station.engine.submit(DecodeJob(request=stays))
            await station.spoken(goes.request_id, 3)
            station.engine.abort(goes.request_id)
            assert (await station.end_of(goes.request_id)).finish is FinishReason.ABORTED
            await station.end_of(stays.request_id)
            assert station.heard.tokens(stays.request_id) == alone
            await pair.until_empty()

        bench.run(scenario)

    def test_abort_after_the_end_and_unknown_names_are_ignored(self, bench: Bench) -> None:
        """What ended stays ended, and strange ids do nothing."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(20)
            await pair.decode.decode(request)
            pair.decode.engine.abort(request.request_id)
            pair.decode.engine.abort(RequestId("nobody"))
            pair.decode.engine.release(TicketId("nothing"))
            await pair.decode.decode(bench.request(20))
            assert pair.decode.heard.deltas[request.request_id][-1].finish is FinishReason.LENGTH

        bench.run(scenario)

    def test_request_id_in_use_is_a_fault(self, bench: Bench) -> None:
        """A second job under a running id is refused at once, and the first goes on."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(20, max_tokens=30)
            pair.decode.engine.submit(DecodeJob(request=request))
            with pytest.raises(InternalFault):
                pair.decode.engine.submit(DecodeJob(request=request))
            await pair.decode.end_of(request.request_id)
            assert len(pair.decode.heard.tokens(request.request_id)) == 30

        bench.run(scenario)

    def test_prompt_that_does_not_fit_ends_in_an_error(self, bench: Bench) -> None:
        """A prompt that fills the context is refused by name, as either job, and the engine lives."""

        async def scenario(pair: Pair) -> None:
            limit = pair.decode.info.limits.context_tokens_max
            prompt = bench.prompt(limit)
            local, remote = bench.request(prompt), bench.request(prompt)
            pair.decode.engine.submit(DecodeJob(request=local))
            pair.decode.engine.submit(PrefillJob(request=remote))
            for request in (local, remote):
                final = await pair.decode.end_of(request.request_id)
                assert isinstance(final.error, ContextTooLong | InvalidRequest)
            await pair.decode.engine.check_health()
            await pair.decode.decode(bench.request(20))
            await pair.until_empty()

        bench.run(scenario)

    def test_load_counts_what_runs(self, bench: Bench) -> None:
        """A decoding sequence shows in the counters, and is gone from them when it ended."""

        async def scenario(pair: Pair) -> None:
            request = bench.request(40, max_tokens=200)
            pair.decode.engine.submit(DecodeJob(request=request))
            assert pair.decode.engine.load().waiting_count == 1
            assert pair.decode.engine.load().waiting_prefill_tokens == 40
            await pair.decode.spoken(request.request_id, 2)
            load = pair.decode.engine.load()
            assert (load.running_count, load.waiting_count) == (1, 0)
            assert load.running_context_tokens >= 41
            assert load.waiting_prefill_tokens == 0
            pair.decode.engine.abort(request.request_id)
            await pair.until_empty()

        bench.run(scenario)

    def test_everything_at_once(self, bench: Bench) -> None:
        """A mixed crowd with aborts ends once each, and nothing stays behind."""

        async def scenario(pair: Pair) -> None:
            async def give_up(request: InferenceRequest) -> None:
                pair.decode.engine.submit(DecodeJob(request=request))
                await pair.decode.spoken(request.request_id, 1)
                pair.decode.engine.abort(request.request_id)
                await pair.decode.end_of(request.request_id)

            await asyncio.gather(
                *(pair.disaggregated(bench.request(10 + 23 * i), early=bool(i % 2)) for i in range(6)),
                *(pair.decode.decode(bench.request(10 + 17 * i, max_tokens=20)) for i in range(6)),
                *(pair.prefill.decode(bench.request(10 + 17 * i, max_tokens=20)) for i in range(3)),
                *(give_up(bench.request(15 + 5 * i, max_tokens=300)) for i in range(4)),
            )
            await pair.until_empty()

        bench.run(scenario)

    def test_stop_ends_jobs_as_aborted(self, bench: Bench) -> None:
        """Stopping an engine ends what runs, once each, and may be repeated."""

        async def scenario(pair: Pair) -> None:
            talks, waits = bench.request(20, max_tokens=400), bench.request(20, max_tokens=400)
            pair.decode.engine.submit(DecodeJob(request=talks))
            await pair.decode.spoken(talks.request_id, 1)
            pair.decode.engine.submit(DecodeJob(request=waits))
            await pair.decode.engine.stop()
            await pair.decode.engine.stop()
            for request in (talks, waits):
                final = pair.decode.heard.final(request.request_id)
                assert final is not None
                assert final.finish is FinishReason.ABORTED
            assert pair.decode.engine.load() == WorkerLoad()
            with pytest.raises(EngineFailed):
                await pair.decode.engine.check_health()

        bench.run_fresh(scenario)

    def test_dead_engine_says_so(self, bench: Bench) -> None:
        """When an engine dies its jobs end in errors, health fails, and later jobs end in errors too."""

        async def scenario(pair: Pair) -> None:
            await pair.decode.engine.check_health()
            runs, late = bench.request(20, max_tokens=400), bench.request(20)
            pair.decode.engine.submit(DecodeJob(request=runs))
            await pair.decode.spoken(runs.request_id, 1)
            await bench.kill(pair.decode.engine)
            final = await pair.decode.end_of(runs.request_id)
            assert isinstance(final.error, EngineFailed)
            with pytest.raises(EngineFailed):
                await pair.decode.engine.check_health()
            pair.decode.engine.submit(DecodeJob(request=late))
            assert isinstance((await pair.decode.end_of(late.request_id)).error, EngineFailed)
            assert pair.decode.engine.load() == WorkerLoad()

        bench.run_fresh(scenario)
