"""Two engines of real vLLM, each over two "machines" of loopback, and KV handed over between them.

    nice python -m tests.bench.bench_two_machines

Comes in: nothing. Goes out: how long the engines took to gather, and for each prompt whether prefill on one
and decode on the other gave the tokens of one engine alone. Four processes compute, on few cores: minutes.
What separates it from two real machines: addresses, and that shared memory would be there too, though no
process is told so.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from services.bus.settings import BusSettings
from services.domain.blocks import CacheScope
from services.domain.ids import RequestId, WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.engine.port import DecodeJob, EngineStep, PrefillJob
from services.engine.vllm.adapter import VllmEngine
from services.engine.vllm.settings import NodesSettings, VllmSettings
from services.tinymodel import model_path
from services.worker import following
from services.worker.settings import WorkerProcessSettings, WorkerSettings

MODEL = "baton-tiny"
PORTS = (29711, 29712)
PROMPTS = ((300, 150), (500, 64), (310, 333))
"""First token and length of each."""
WAIT_S = 180.0


def engine_settings(port: int, rank: int) -> VllmSettings:
    """Settings of one machine of an engine."""
    return VllmSettings(
        model=str(model_path()),
        model_name=MODEL,
        tensor_parallel_size=2,
        nodes=NodesSettings(count=2, rank=rank, leader_host="127.0.0.1", leader_port=port),
        kv_cache_bytes=32 * 1024 * 1024,
        context_tokens_max=512,
        sequences_max=8,
        step_tokens_max=512,
        openmp_threads=1,
        boot_timeout_s=600.0,
    )


class Engine:
    """An engine and what it brought."""

    def __init__(self, name: str, port: int) -> None:
        """Prepare the machine that leads."""
        self.engine = VllmEngine(engine_settings(port, rank=0), worker_id=WorkerId(name))
        self.tokens: dict[RequestId, list[int]] = defaultdict(list)
        self.ended: dict[RequestId, asyncio.Event] = defaultdict(asyncio.Event)
        self.steps: list[EngineStep] = []

    async def start(self) -> None:
        """Gather and load."""
        await self.engine.start(self._take, lambda _events: None)

    def _take(self, step: EngineStep) -> None:
        self.steps.append(step)
        for delta in step.deltas:
            self.tokens[delta.request_id].extend(delta.token_ids)
            if delta.finish is not None:
                self.ended[delta.request_id].set()
        for prefilled in step.prefilled:
            self.ended[prefilled.request_id].set()

    async def do(self, job: PrefillJob | DecodeJob) -> list[int]:
        """Do a job to its end; its tokens."""
        request_id = job.request.request_id
        self.engine.submit(job)
        async with asyncio.timeout(WAIT_S):
            await self.ended[request_id].wait()
        return self.tokens[request_id]


def request(name: str, first: int, length: int) -> InferenceRequest:
    """A greedy request."""
    return InferenceRequest(
        request_id=RequestId(name),
        scope=CacheScope(model=MODEL),
        prompt_token_ids=tuple(first + i % 700 for i in range(length)),
        sampling=Sampling(max_tokens=24, temperature=0.0, ignore_eos=True),
    )


async def lead() -> int:
    """Start followers and leaders, hand over; 0 when all tokens are exact."""
    command = [sys.executable, "-m", "tests.bench.bench_two_machines", "--follow"]
    followers = [subprocess.Popen([*command, str(port)], cwd=Path.cwd()) for port in PORTS]  # noqa: ASYNC220
    began_s, differing = time.monotonic(), 0
    prefill, decode = Engine("prefill", PORTS[0]), Engine("decode", PORTS[1])
    try:
        await asyncio.gather(prefill.start(), decode.start())
        print(f"two engines of two machines each are up after {time.monotonic() - began_s:.0f} s", flush=True)
        for number, (first, length) in enumerate(PROMPTS):
            whole = await prefill.do(DecodeJob(request=request(f"whole-{number}", first, length)))
            asked = request(f"split-{number}", first, length)
            await prefill.do(PrefillJob(request=asked))
            (handed,) = [
                p for step in prefill.steps for p in step.prefilled if p.request_id == asked.request_id
            ]
            early = handed.first.token_ids
            rest = await decode.do(DecodeJob(request=asked, ticket=handed.ticket, emitted_token_ids=early))
            is_exact = handed.ticket is not None and [*early, *rest] == whole
            differing += not is_exact
            said = "exact" if is_exact else f"different: {[*early, *rest]} is not {whole}"
            print(f"{length} prompt tokens handed over, {len(whole)} written: {said}", flush=True)
        checks = [check.matched for step in decode.steps for check in step.kv_checks]
        print(f"pulls compared with fingerprints of both machines: {checks}", flush=True)
    finally:
        await asyncio.gather(prefill.engine.stop(), decode.engine.stop())
        codes = [await asyncio.to_thread(follower.wait, 60.0) for follower in followers]
        print(f"followers ended with {codes} after their leaders", flush=True)
    return min(differing, 1)


async def follow(port: int) -> int:
    """Follow the leader at a port."""
    worker = WorkerSettings(worker_id="follower", model=MODEL, engine=engine_settings(port, rank=1))
    settings = WorkerProcessSettings(workers=(worker,), bus=BusSettings(url="nats://127.0.0.1:1"))
    engine = following.engine_to_follow(settings)
    assert engine is not None
    return await following.run(settings, engine)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--follow", type=int, metavar="PORT", help="follow the leader at this port")
    chosen = asked.parse_args()
    sys.exit(asyncio.run(lead() if chosen.follow is None else follow(chosen.follow)))
