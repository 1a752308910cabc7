"""A cluster in one event loop on the virtual clock: every way a request can go, and nothing left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.blocks import CacheScope
from services.domain.errors import ContextTooLong, DeadlineExceeded, DeadlineUnmeetable, ServingError
from services.domain.ids import RequestId
from services.domain.placement import Path, PathPreference
from services.domain.request import InferenceRequest, Sampling
from services.domain.timeline import Mark
from services.domain.worker import Phase
from services.engine.simulated.oracle import expected_tokens
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.conductor import Conductor
from services.gateway.port import ServeOptions
from services.runtime.clock import run_virtual

P, D = (Phase.PREFILL,), (Phase.DECODE,)


def request(
    name: str, tokens: int = 100, *, max_tokens: int = 20, seed: int | None = None, first: int = 300
) -> InferenceRequest:
    """Make a request; greedy, or seeded when a seed is given."""
    return InferenceRequest(
        request_id=RequestId(name),
        scope=CacheScope(model=MODEL),
        prompt_token_ids=tuple(first + i % 3000 for i in range(tokens)),
        sampling=Sampling(max_tokens=max_tokens, temperature=0.0 if seed is None else 1.0, seed=seed),
    )


async def tokens_of(
    gateway: Conductor,
    asked: InferenceRequest,
    *,
    preference: PathPreference = PathPreference.AUTO,
    deadline_s: float | None = None,
) -> tuple[int, ...]:
    """Serve a request and collect its tokens; exactly one terminal event, or its error."""
    tokens: list[int] = []
    ends = 0
    async for delta in gateway.generate(asked, ServeOptions(deadline_s=deadline_s, preference=preference)):
        assert ends == 0, "nothing follows the end"
        tokens.extend(delta.token_ids)
        if delta.finish is not None:
            ends += 1
            if delta.error is not None:
                raise delta.error
    assert ends == 1
    return tuple(tokens)


def in_cluster(
    work: Callable[[InProcessCluster], Awaitable[None]], *, prefill: int = 1, decode: int = 1
) -> None:
    """Run a test in a cluster on the virtual clock."""

    async def main() -> None:
        names = {f"prefill-{i}": P for i in range(prefill)} | {f"decode-{i}": D for i in range(decode)}
        cluster = InProcessCluster(names)
        await cluster.start()
        try:
            await work(cluster)
        finally:
            await cluster.stop()

    run_virtual(main())


def truth(asked: InferenceRequest) -> tuple[int, ...]:
    """The tokens that the model writes for a request."""
    settings = SimulatedSettings()
    return expected_tokens(
        asked, vocabulary=settings.vocabulary(), context_tokens_max=settings.context_tokens_max
    ).token_ids


@pytest.mark.parametrize("path", [Path.LOCAL, Path.REMOTE])
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 32, 100, 1024])
@pytest.mark.parametrize("seed", [None, 7])
def test_both_paths_give_the_tokens_of_the_model(path: Path, tokens: int, seed: int | None) -> None:
    """Local or handed over, block-aligned or not, greedy or seeded: the same tokens."""

    async def work(cluster: InProcessCluster) -> None:
        asked = request("r", tokens, seed=seed)
        got = await tokens_of(cluster.gateways[0], asked, preference=PathPreference(path.value))
        assert got == truth(asked)
        record = cluster.gateways[0].record(asked.request_id)
        assert record is not None
        assert record.placement is not None
        assert record.placement.path is path
        assert (record.handoff is not None) == (path is Path.REMOTE)
        assert record.first_token_early == (path is Path.REMOTE and seed is None)

    in_cluster(work)


def test_nothing_is_left_behind() -> None:
    """After a mix of finished, handed-over and cancelled requests no block, lease, task or sequence stays."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        async with asyncio.TaskGroup() as group:
            for i in range(20):
                preference = (PathPreference.LOCAL, PathPreference.REMOTE)[i % 2]
                asked = request(f"r{i}", 50 + 37 * i, max_tokens=5 + i, first=300 + 40 * i)
                group.create_task(_finish_or_leave(gateway, asked, preference, leave=i % 3 == 0))
        await asyncio.sleep(1.0)
        assert {k: v for k, v in cluster.leftovers().items() if v} == {}

    in_cluster(work, prefill=2, decode=2)


async def _finish_or_leave(
    gateway: Conductor, asked: InferenceRequest, preference: PathPreference, *, leave: bool
) -> None:
    deltas = gateway.generate(asked, ServeOptions(deadline_s=None, preference=preference))
    got: list[int] = []
    async with aclosing(deltas):
        async for delta in deltas:
            got.extend(delta.token_ids)
            if leave:
                return
    assert tuple(got) == truth(asked)


@pytest.mark.parametrize("after_s", [0.0001, 0.01, 0.02, 0.05, 0.08])
@pytest.mark.parametrize("path", [PathPreference.LOCAL, PathPreference.REMOTE])
def test_a_client_that_leaves_frees_everything(after_s: float, path: PathPreference) -> None:
    """Whenever the client leaves (queued, prefilling, between prefill and decode, decoding), all is freed."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = request("r", 3000, max_tokens=500)
        reading = asyncio.ensure_future(tokens_of(gateway, asked, preference=path))
        await asyncio.sleep(after_s)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await asyncio.sleep(0.5)
        assert {k: v for k, v in cluster.leftovers().items() if v} == {}

    in_cluster(work)


def test_frames_grow_with_steps_and_not_with_tokens() -> None:
    """32 requests on one worker: a frame carries the tokens of all, so frames are far fewer than tokens."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = [request(f"r{i}", 64, max_tokens=100, first=300 + 64 * i) for i in range(32)]
        got = await asyncio.gather(*(tokens_of(gateway, r, preference=PathPreference.LOCAL) for r in asked))
        tokens = sum(len(t) for t in got)
        text = cluster.meters.render().decode()
        frames = next(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("baton_engine_step_frames_total ")
        )
        assert frames <= max(len(t) for t in got) + 40, "one frame per step, whoever is in it"
        assert frames * 5 < tokens

    in_cluster(work)


def test_a_shared_prefix_goes_to_the_worker_that_holds_it() -> None:
    """The second request with the same long prefix is placed on the holder, and reports cached tokens."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        first = request("first", 4000)
        await tokens_of(gateway, first, preference=PathPreference.LOCAL)
        await asyncio.sleep(0.5)
        second = request("second", 4000)
        await tokens_of(gateway, second)
        before, after = gateway.record(first.request_id), gateway.record(second.request_id)
        assert before is not None
        assert before.placement is not None
        assert after is not None
        assert after.placement is not None
        assert after.placement.worker_id == before.placement.worker_id
        assert before.cached_tokens == 0
        assert after.cached_tokens is not None
        assert after.cached_tokens >= 3900

    in_cluster(work, prefill=2, decode=4)


def test_a_long_prompt_is_handed_over_when_it_would_stall_others() -> None:
    """An idle cluster prefills on the decode worker; a busy one sends a long prompt to the prefill pool."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        alone = request("alone", 8000)
        await tokens_of(gateway, alone)
        running = [
            asyncio.ensure_future(tokens_of(gateway, request(f"r{i}", 50, max_tokens=2000, first=900 + i)))
            for i in range(16)
        ]
        await asyncio.sleep(0.5)
        busy = request("busy", 8000, first=1500)
        await tokens_of(gateway, busy)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        idle_record, busy_record = gateway.record(alone.request_id), gateway.record(busy.request_id)
        assert idle_record is not None
        assert idle_record.placement is not None
        assert busy_record is not None
        assert busy_record.placement is not None
        assert idle_record.placement.path is Path.LOCAL
        assert busy_record.placement.path is Path.REMOTE
        assert "stall" in busy_record.placement.reason

    in_cluster(work)


def test_the_timeline_of_a_handed_over_request_is_complete() -> None:
    """Every moment from accept to end is there once, in order."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = request("r", 500)
        await tokens_of(gateway, asked, preference=PathPreference.REMOTE)
        record = gateway.record(asked.request_id)
        assert record is not None
        assert {m for m, _ in record.timeline.marks} == set(Mark)
        assert len(record.timeline.marks) == len(Mark)
        times = [at for _, at in record.timeline.marks]
        assert times == sorted(times)
        assert record.timeline.tpot_s is not None
        assert record.finish is not None

    in_cluster(work)


def test_a_deadline_ends_a_request_wherever_it_is() -> None:
    """What cannot be done in time is refused when that is known at once, ended when it is not."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        for i, (path, deadline_s, error) in enumerate(
            (
                (PathPreference.REMOTE, 0.01, DeadlineUnmeetable),
                (PathPreference.REMOTE, 0.1, DeadlineExceeded),
                (PathPreference.LOCAL, 0.1, DeadlineExceeded),
            )
        ):
            asked = request(f"r{i}", 2000, max_tokens=5000)
            with pytest.raises(error):
                await tokens_of(gateway, asked, preference=path, deadline_s=deadline_s)
        await asyncio.sleep(0.5)
        assert {k: v for k, v in cluster.leftovers().items() if v} == {}

    in_cluster(work)


def test_what_fits_nowhere_is_refused_before_any_work() -> None:
    """A prompt longer than the model's context is rejected with the limit in the error."""

    async def work(cluster: InProcessCluster) -> None:
        asked = request("r", 131_072, max_tokens=10)
        with pytest.raises(ContextTooLong) as refused:
            await tokens_of(cluster.gateways[0], asked)
        assert refused.value.limit_tokens == 131_072

    in_cluster(work)


def test_a_prefill_worker_that_dies_costs_time_and_nothing_else() -> None:
    """The engine of the only prefill worker dies during prefill: the answer still comes, token-exact."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = request("r", 8000)
        reading = asyncio.ensure_future(tokens_of(gateway, asked, preference=PathPreference.REMOTE))
        await asyncio.sleep(0.05)
        cluster.engines["prefill-0"].crash()
        assert await reading == truth(asked)
        record = gateway.record(asked.request_id)
        assert record is not None
        assert record.fallbacks

    in_cluster(work)


def test_a_prefill_worker_that_dies_is_replaced_by_another_at_once() -> None:
    """The process that prefills is killed: another prefill worker does it; nobody waits for the claim."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = request("r", 8000)
        reading = asyncio.ensure_future(tokens_of(gateway, asked, preference=PathPreference.REMOTE))
        await asyncio.sleep(0.05)
        claimed = gateway.record(asked.request_id)
        assert claimed is not None
        assert claimed.handoff is None
        first = next(name for name in ("prefill-0", "prefill-1") if cluster.engines[name].job_ids())
        await cluster.kill_worker(first)
        assert await reading == truth(asked)
        record = gateway.record(asked.request_id)
        assert record is not None
        assert record.handoff is not None
        assert record.handoff.worker_id != first
        assert record.timeline.ttft_s is not None
        assert record.timeline.ttft_s < 1.0

    in_cluster(work, prefill=2)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_decode_worker_that_dies_is_replaced_mid_stream(seed: int | None) -> None:
    """The engine that writes the tokens dies: another goes on, no token lost, none repeated."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = request("r", 200, max_tokens=400, seed=seed)
        reading = asyncio.ensure_future(tokens_of(gateway, asked, preference=PathPreference.LOCAL))
        await asyncio.sleep(0.1)
        record = gateway.record(asked.request_id)
        assert record is not None
        assert record.placement is not None
        assert record.output_tokens > 0
        cluster.engines[record.placement.worker_id].crash()
        assert await reading == truth(asked)

    in_cluster(work, decode=2)


def test_without_the_bus_prompts_are_prefilled_locally() -> None:
    """NATS is away: nothing that a worker could serve is refused."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        for name in ("gateway-0", "prefill-0", "decode-0"):
            cluster.broker.partition(name, cut=True)
        asked = request("r", 500)
        assert await tokens_of(gateway, asked, preference=PathPreference.REMOTE) == truth(asked)

    in_cluster(work)


def test_a_request_id_is_used_once_at_a_time() -> None:
    """A second request under an id that runs is a fault of ours, and does not touch the first."""

    async def work(cluster: InProcessCluster) -> None:
        gateway = cluster.gateways[0]
        asked = request("r", 100, max_tokens=50)
        reading = asyncio.ensure_future(tokens_of(gateway, asked))
        await asyncio.sleep(0.01)
        with pytest.raises(ServingError):
            await tokens_of(gateway, asked)
        assert await reading == truth(asked)
        assert asked.request_id in {r.request_id for r in gateway.recent()}

    in_cluster(work)
