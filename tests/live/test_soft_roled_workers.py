"""Two real engines that both do both: prompts are bid for, sequences move or stay, tokens are exact."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from services.cluster.settings import ClusterSettings, PoolSettings
from services.router.settings import RouterSettings
from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceStub
from tests.live.cluster import RunningCluster, open_cluster
from tests.live.conftest import vllm
from tests.live.outputs import PROMPTS, Reference, ask

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

AT_ONCE = 8


@pytest.fixture(scope="module")
def soft(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Two workers of both roles, up once the reference's engine is gone."""
    del reference
    settings = ClusterSettings(
        pools=PoolSettings(prefill=0, decode=0, both=2),
        vllm=vllm(),
        router=RouterSettings(early_rejection=False),
    )
    with open_cluster(settings, tmp_path_factory.mktemp("soft")) as opened:
        yield opened


async def test_tokens_are_those_of_one_engine(soft: RunningCluster, reference: Reference) -> None:
    """Whoever prefills and whoever writes: greedy and seeded answers are what a single engine gave."""
    places = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []
    ways: Counter[str] = Counter()
    async with soft.grpc() as channel:
        stub = InferenceServiceStub(channel)

        async def examine(number: int, sampling: str) -> None:
            prompt = PROMPTS[number]
            async with places:
                answer = await ask(stub, prompt, sampling, salt=sampling)
            if answer.token_ids != reference[prompt, sampling].token_ids:
                wrong.append(f"{len(prompt)} tokens, {sampling}: {list(answer.token_ids)}")
            record = await soft.record(answer.request_id)
            if record.fallbacks:
                wrong.append(f"{len(prompt)} tokens, {sampling}: left ways {record.fallbacks}")
            if record.handoff is None or record.decode_placement is None:
                ways["alone"] += 1
            else:
                stayed = record.handoff.worker_id == record.decode_placement.worker_id
                ways["stayed" if stayed else "moved"] += 1

        async with asyncio.TaskGroup() as group:
            for sampling in ("greedy", "seeded"):
                for number in range(0, len(PROMPTS), 2):
                    group.create_task(examine(number, sampling))
    assert not wrong, "\n".join(wrong)
    assert ways["moved"] > 0
    assert ways["stayed"] > 0
    await soft.becomes_idle()
