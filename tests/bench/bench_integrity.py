"""What fingerprinting handed-over KV costs: per block, and per handoff with the checks on and off.

Run it with `python -m tests.bench.bench_integrity`: two vLLM engines of the shipped model, a core each. The
handoffs alternate between checked and unchecked on the same pair of engines, so that their ratio does not
depend on what else the machine does. A handoff is the time from a prompt's submission to the prefill engine
until decode's first token; the prompts are new, so every block is computed and moved.
"""

import asyncio
from statistics import median
from time import perf_counter

import torch
from msgspec.structs import replace

from services.domain.ids import WorkerId
from services.engine.port import DecodeJob
from services.engine.vllm.adapter import VllmEngine
from services.engine.vllm.fingerprints import BlockFingerprints
from tests.engine.bench import Pair, started
from tests.engine.vllm.live.rig import DEADLINE_S, VllmRig, settings

SHAPES = {
    "shipped model, 32 tokens, float32": (4, 64, (2, 32, 64), torch.float32),
    "Llama-3.1-8B, 16 tokens, bf16": (32, 64, (8, 16, 256), torch.bfloat16),
}
"""Layers, blocks, shape of a block in one layer (heads, tokens, keys and values), dtype."""
SAMPLE = 4
PROMPTS = (33, 256, 1024, 1900)
ROUNDS = 60


def per_block_s(layers: int, blocks: int, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[float, int]:
    """Time of one fingerprint among `SAMPLE` together, s, and the bytes of a block."""
    caches = [torch.randn((blocks, *shape)).to(dtype) for _ in range(layers)]
    prints = BlockFingerprints(caches, pages_per_block=1)
    seconds = []
    for turn in range(200):
        ids = [(turn * SAMPLE + k) % blocks for k in range(SAMPLE)]
        begun_s = perf_counter()
        prints.of(ids)
        seconds.append((perf_counter() - begun_s) / SAMPLE)
    return median(seconds), sum(cache[0].nbytes for cache in caches)


async def handoff_s(rig: VllmRig, pair: Pair, length: int) -> tuple[float, float]:
    """Hand one new prompt over; returns the times until the ticket and until decode's first token, s."""
    request = rig.request(length, max_tokens=2)
    begun_s = perf_counter()
    ticket, first = await pair.prefill.prefill(request)
    ticket_s = perf_counter() - begun_s
    job = DecodeJob(request=request, ticket=ticket, emitted_token_ids=first.token_ids)
    pair.decode.engine.submit(job)
    await pair.decode.spoken(request.request_id, 1)
    return ticket_s, perf_counter() - begun_s


def told(taken: dict[str, list[tuple[float, float]]], which: int, name: str) -> str:
    """Say the medians of one time, with checks and without, and their ratio."""
    off_s, default_s = (median(times[which] for times in taken[kind]) for kind in ("off", "default"))
    return f"{name} {off_s * 1e3:.2f} ms off, {default_s * 1e3:.2f} default, ratio {default_s / off_s:.3f}"


async def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        seconds, size = per_block_s(*shape)
        print(f"{name}: {seconds * 1e6:7.1f} us per block of {size // 1024} KiB, {SAMPLE} blocks at once")
    rig = VllmRig()
    engines = [VllmEngine(settings(i), worker_id=WorkerId(f"w{i}")) for i in range(2)]
    try:
        pair = Pair(*[await started(engine, DEADLINE_S) for engine in engines])
        default = engines[0]._settings
        kinds = {"off": replace(default, kv_check_frac=0.0), "default": default}
        for length in PROMPTS:
            taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
            for turn in range(-6, 2 * ROUNDS):
                kind = "off" if turn % 2 else "default"
                engines[0]._settings = kinds[kind]
                times = await handoff_s(rig, pair, length)
                if turn >= 0:
                    taken[kind].append(times)
            print(
                f"{length:5d} tokens: {told(taken, 0, 'ticket')}; {told(taken, 1, 'first token of decode')}"
            )
    finally:
        for engine in engines:
            await engine.stop()
        rig.close()


if __name__ == "__main__":
    asyncio.run(main())
