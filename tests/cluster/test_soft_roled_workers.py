"""A cluster of workers that can do both: prompts are bid for, sequences gather, tokens are exact."""

import asyncio
from collections import Counter

from services.cluster.inprocess import InProcessCluster
from services.domain.placement import Path
from services.domain.worker import Phase
from services.runtime.clock import run_virtual
from tests.cluster.test_requests_in_process import request, tokens_of, truth

BOTH = (Phase.DECODE, Phase.PREFILL)


def serve(workers: int, requests: int, *, apart_s: float) -> tuple[Counter[str], Counter[str], int]:
    """Serve long answers, one beginning after another.

    Returns:
        Who wrote, who prefilled, and how many went on where they were prefilled.
    """
    wrote: Counter[str] = Counter()
    prefilled: Counter[str] = Counter()
    stayed = 0

    async def main() -> None:
        nonlocal stayed
        cluster = InProcessCluster({f"soft-{i}": BOTH for i in range(workers)})
        await cluster.start()
        gateway = cluster.gateways[0]

        async def one(number: int) -> None:
            nonlocal stayed
            asked = request(f"r{number}", 2000, max_tokens=150, first=300 + 7 * number)
            assert await tokens_of(gateway, asked) == truth(asked)
            record = gateway.record(asked.request_id)
            assert record is not None
            assert record.placement is not None
            assert record.placement.path is (Path.REMOTE if workers > 1 else Path.LOCAL)
            writer = record.placement.worker_id
            if record.handoff is not None:
                prefilled[record.handoff.worker_id] += 1
                if record.decode_placement is not None:
                    writer = record.decode_placement.worker_id
                    stayed += writer == record.handoff.worker_id
            wrote[writer] += 1

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(requests):
                    group.create_task(one(number))
                    await asyncio.sleep(apart_s)
            await asyncio.sleep(1.0)
            assert not any(cluster.leftovers().values())
        finally:
            await cluster.stop()

    run_virtual(main())
    return wrote, prefilled, stayed


def test_sequences_gather_and_the_others_prefill() -> None:
    """Some of four write, the others compute nearly every prompt; nobody set how many."""
    wrote, prefilled, _ = serve(4, 60, apart_s=0.1)
    writers = [name for name, _ in wrote.most_common(2)]
    assert sum(wrote[name] for name in writers) >= 0.8 * wrote.total()
    assert sum(prefilled[name] for name in writers) <= 0.3 * prefilled.total()


def test_requests_far_apart_stay_where_they_are_prefilled() -> None:
    """On an idle cluster nothing need move: the worker that has the KV goes on, and finds it in its cache."""
    _, prefilled, stayed = serve(3, 5, apart_s=30.0)
    assert prefilled.total() == 5
    assert stayed >= 1


def test_a_single_worker_serves_alone() -> None:
    """With nobody to bid against, a prompt needs no queue."""
    wrote, prefilled, _ = serve(1, 5, apart_s=0.1)
    assert wrote == {"soft-0": 5}
    assert not prefilled
