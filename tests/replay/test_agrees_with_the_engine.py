"""The replay and the simulated engine that serves real requests are the same engine, to rounding.

The engine runs on asyncio, with tokens, hashes, tickets and leases; the replay counts. On the same arrivals
every token comes at the same moment, from the same cache, through preemption and handoffs.
"""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import CacheScope
from services.domain.ids import RequestId, WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.engine.port import DecodeJob, EngineStep, PrefillJob
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings
from services.replay.cluster import Cluster
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.policy import FirstToken, Mechanisms
from services.replay.presets import EngineTiming
from services.replay.traces import Trace
from services.runtime.clock import run_virtual
from tests.replay.scenery import BLOCK_TOKENS, engine, token_times_s, traces

Seen = tuple[list[list[float]], list[int | None]]
"""Token times of each request, s; prompt tokens found cached."""


def engine_settings(timing: EngineTiming) -> SimulatedSettings:
    """The same engine for the other side; contexts may fill it whole."""
    return SimulatedSettings(
        performance=timing.performance,
        block_size_tokens=timing.block_size_tokens,
        kv_blocks=timing.kv_blocks,
        kv_bytes_per_token=timing.kv_bytes_per_token,
        context_tokens_max=timing.kv_blocks * timing.block_size_tokens,
        sequences_max=timing.sequences_max,
        step_tokens_max=timing.step_tokens_max,
        lease_s=1e6,
        eos_every_tokens=0,
    )


def requests_of(trace: Trace) -> list[InferenceRequest]:
    """Give each prompt tokens of its own, equal where its ids are."""
    return [
        InferenceRequest(
            request_id=RequestId(f"r{number}"),
            scope=CacheScope(model="m"),
            prompt_token_ids=tuple(
                1_000 + request.prefix_ids[place // BLOCK_TOKENS] for place in range(request.prompt_tokens)
            ),
            sampling=Sampling(max_tokens=request.output_tokens, temperature=0.0, ignore_eos=True),
        )
        for number, request in enumerate(trace.requests)
    ]


def served(trace: Trace, timing: EngineTiming, *, prefills: bool, first_token: FirstToken) -> Seen:
    """Serve a trace by one real engine, or by one that prefills and one that decodes."""
    requests = requests_of(trace)
    times_s: list[list[float]] = [[] for _ in requests]
    cached: list[int | None] = [None for _ in requests]

    async def story() -> None:
        loop, fabric, done = asyncio.get_running_loop(), Fabric(), asyncio.Event()
        missing = sum(request.output_tokens for request in trace.requests)
        source, target = (
            SimulatedEngine(engine_settings(timing), worker_id=WorkerId(name), fabric=fabric)
            for name in ("source", "target")
        )

        def hear(step: EngineStep) -> None:
            nonlocal missing
            for prefilled in step.prefilled:
                number = int(prefilled.request_id[1:])
                cached[number] = prefilled.first.cached_tokens
                spoken: tuple[int, ...] = ()
                if first_token is FirstToken.PREFILL:
                    times_s[number].append(loop.time() - began_s)
                    spoken = prefilled.first.token_ids
                    missing -= 1
                job = DecodeJob(request=requests[number], ticket=prefilled.ticket, emitted_token_ids=spoken)
                target.submit(job)
            for delta in step.deltas:
                number = int(delta.request_id[1:])
                times_s[number] += [loop.time() - began_s] * len(delta.token_ids)
                if not prefills and delta.cached_tokens is not None:
                    cached[number] = delta.cached_tokens
                missing -= len(delta.token_ids)
            if not missing:
                done.set()

        await source.start(hear, lambda _events: None)
        await target.start(hear, lambda _events: None)
        began_s = loop.time()
        for request, traced in zip(requests, trace.requests, strict=True):
            await asyncio.sleep(max(0.0, began_s + traced.arrival_s - loop.time()))
            if prefills:
                source.submit(PrefillJob(request=request))
            else:
                target.submit(DecodeJob(request=request))
        await done.wait()
        await source.stop()
        await target.stop()

    run_virtual(story())
    return times_s, cached


def replayed(trace: Trace, timing: EngineTiming, options: PolicyOptions) -> tuple[Seen, Cluster]:
    """Replay the same."""
    cluster = Cluster(
        trace,
        timing,
        worker_count=1 if options.prefill_workers is None else 2,
        policy=lambda fleet: POLICIES["round-robin"](fleet, options),
        itl_slo_s=0.02,
    )
    cluster.run()
    return (token_times_s(cluster), [record.cached_tokens for record in cluster.records]), cluster


def assert_agree(replay: Seen, real: Seen) -> None:
    """Compare every token."""
    for ours, theirs in zip(replay[0], real[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    assert replay[1] == real[1]


def apart(make: Callable[..., st.SearchStrategy[Trace]], **bounds: int) -> st.SearchStrategy[Trace]:
    """Traces in which nothing arrives just when a step ends: who is first then is nobody's promise."""
    return make(**bounds).map(_shifted)


def _shifted(trace: Trace) -> Trace:
    requests = tuple(
        type(request)(
            arrival_s=request.arrival_s + 1e-5 * (number + 1) / 3.0001,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            prefix_ids=request.prefix_ids,
        )
        for number, request in enumerate(trace.requests)
    )
    return Trace(name=trace.name, requests=requests, trace_block_tokens=trace.trace_block_tokens)


@settings(max_examples=60, deadline=None)
@given(trace=apart(traces), kv_blocks=st.integers(26, 120), step_tokens=st.sampled_from([8, 24, 96]))
def test_on_one_worker(trace: Trace, kv_blocks: int, step_tokens: int) -> None:
    """Chunked prefill, shared prefixes, eviction, preemption."""
    timing = engine(kv_blocks=kv_blocks, step_tokens=step_tokens)
    real = served(trace, timing, prefills=False, first_token=FirstToken.DECODE)
    replay, _cluster = replayed(trace, timing, PolicyOptions())
    assert_agree(replay, real)


@settings(max_examples=60, deadline=None)
@given(
    trace=apart(traces).filter(lambda trace: all(request.output_tokens > 1 for request in trace.requests)),
    kv_blocks=st.integers(200, 400),
    first_token=st.sampled_from([FirstToken.DECODE, FirstToken.PREFILL]),
)
def test_with_handoffs(trace: Trace, kv_blocks: int, first_token: FirstToken) -> None:
    """One worker prefills, one decodes; blocks move one prompt after another, cached ones do not."""
    timing = engine(kv_blocks=kv_blocks)
    real = served(trace, timing, prefills=True, first_token=first_token)
    options = PolicyOptions(prefill_workers=1, mechanisms=Mechanisms(first_token=first_token))
    replay, cluster = replayed(trace, timing, options)
    assert_agree(replay, real)
    assert all(record.moved_bytes >= 0 for record in cluster.records)
