"""How fast a vLLM engine is, as the constants of the performance model: fits them and prints both sides.

Run it with `python -m tests.bench.bench_vllm [--dtype float32]`: two engines of the shipped model, a core
each. The presets of `services.domain.performance` named `cpu-...` come from it. Every figure is the
lowest of many rounds: what else the machine does only ever adds.
"""

import argparse
import asyncio
from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter

import numpy as np
import numpy.typing as npt

from services.domain.ids import WorkerId
from services.domain.request import Sampling
from services.engine.port import DecodeJob, PrefillJob
from services.engine.vllm.adapter import VllmEngine
from tests.engine.bench import Pair, Station, started
from tests.engine.vllm.live.rig import DEADLINE_S, VllmRig, settings

PROMPTS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = ((1, 32), (4, 32), (16, 32), (64, 32), (1, 2048), (8, 2048), (16, 1024))
"""Pairs (sequences, context tokens each)."""
ROUNDS = 12
Floats = npt.NDArray[np.float64]
DECODE_STEPS = 24


async def main(dtype: str) -> None:
    """Measure, fit, print."""
    rig = VllmRig()
    shared = {"dtype": dtype, "context_tokens_max": 8000, "step_tokens_max": 8192, "kv_cache_bytes": 2**28}
    engines = [VllmEngine(settings(i, **shared), worker_id=WorkerId(f"w{i}")) for i in range(2)]
    try:
        pair = Pair(*[await started(engine, DEADLINE_S) for engine in engines])
        prefill = {length: await prefill_s(rig, pair.prefill, length) for length in PROMPTS}
        decode = {batch: await decode_step_s(rig, pair.decode, *batch) for batch in BATCHES}
        pulls = {length: await pull_s(rig, pair, length) for length in PROMPTS}
        bytes_per_token = pair.prefill.info.limits.kv_bytes_per_token
    finally:
        for engine in engines:
            await engine.stop()
    n = np.array(PROMPTS, dtype=float)
    a, b, c = fit([np.ones_like(n), n, n * n / 2], list(prefill.values()))
    print(f"prefill: step {a * 1e3:.3f} ms, token {b * 1e6:.3f} us, attention {c * 1e9:.4f} ns")
    for length, seconds in prefill.items():
        model = a + b * length + c * length**2 / 2
        print(f"  {length:5d} tokens: {seconds * 1e3:8.2f} ms, model {model * 1e3:8.2f}")
    count = np.array([size for size, _ in BATCHES], dtype=float)
    context = np.array([size * (length + DECODE_STEPS / 2) for size, length in BATCHES])
    d, e, f = fit([np.ones_like(count), count, context], list(decode.values()))
    print(f"decode: step {d * 1e3:.3f} ms, sequence {e * 1e6:.2f} us, context token {f * 1e9:.2f} ns")
    for (size, length), seconds in decode.items():
        model = d + e * size + f * size * (length + DECODE_STEPS / 2)
        print(f"  {size:3d} of {length:5d}: {seconds * 1e3:8.2f} ms, model {model * 1e3:8.2f}")
    sizes = n * bytes_per_token
    fixed, per_byte = fit([np.ones_like(n), sizes], list(pulls.values()))
    print(f"pull: fixed {fixed * 1e3:.2f} ms, {1 / per_byte / 1e9:.2f} GB/s (decode's first step included)")
    for length, seconds in pulls.items():
        print(f"  {length:5d} tokens: {seconds * 1e3:8.2f} ms")


def fit(columns: Sequence[Floats], seconds: Sequence[float]) -> list[float]:
    """Fit non-negative coefficients, small and large figures weighing alike."""
    weights = 1 / np.array(seconds)
    table = np.stack(columns, axis=1) * weights[:, None]
    active = list(range(len(columns)))
    while True:
        found, *_ = np.linalg.lstsq(table[:, active], np.ones(len(seconds)), rcond=None)
        if (found >= 0).all() or len(active) == 1:
            break
        active.pop(int(np.argmin(found)))
    solution = [1e-12] * len(columns)
    for index, value in zip(active, found, strict=True):
        solution[index] = max(float(value), 1e-12)
    return solution


async def prefill_s(rig: VllmRig, station: Station, length: int) -> float:
    """Time from submission to first token of one prompt alone, in one chunk."""
    times = []
    for _ in range(ROUNDS):
        request = rig.request(length, max_tokens=1)
        began = perf_counter()
        station.engine.submit(PrefillJob(request=request))
        await station.end_of(request.request_id)
        times.append(perf_counter() - began)
    return min(times)


async def decode_step_s(rig: VllmRig, station: Station, size: int, length: int) -> float:
    """Time between two steps in which all sequences of a batch write a token."""
    times: list[float] = []
    sampling = Sampling(max_tokens=DECODE_STEPS, temperature=0.0, ignore_eos=True)
    for _ in range(max(ROUNDS // 4, 2)):
        requests = [rig.request(length, sampling=sampling) for _ in range(size)]
        stamps: list[tuple[float, int]] = []
        before = len(station.heard.steps)
        for request in requests:
            station.engine.submit(DecodeJob(request=request))
        seen = before
        while any(station.heard.final(r.request_id) is None for r in requests):
            station.heard.news.clear()
            await station.heard.news.wait()
            now = perf_counter()
            stamps.extend((now, len(step.deltas)) for step in station.heard.steps[seen:])
            seen = len(station.heard.steps)
        full = [(t, n) for t, n in stamps if n == size]
        times.extend(b - a for (a, _), (b, _) in pairwise(full[1:]))
    return min(times)


async def pull_s(rig: VllmRig, pair: Pair, length: int) -> float:
    """Time from handing a ticket to decode until its first token."""
    times = []
    for _ in range(ROUNDS):
        request = rig.request(length, max_tokens=2)
        ticket, _ = await pair.prefill.prefill(request)
        began = perf_counter()
        pair.decode.engine.submit(DecodeJob(request=request, ticket=ticket))
        await pair.decode.spoken(request.request_id, 1)
        times.append(perf_counter() - began)
        await pair.decode.end_of(request.request_id)
    return min(times)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dtype", default="float32")
    asyncio.run(main(arguments.parse_args().dtype))
