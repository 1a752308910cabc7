"""Replays a trace in the simulator of NVIDIA Dynamo 1.6.1; runs in that package's own environment.

Comes in: one JSON object as the only argument, the fields of `Replay`. Goes out: on standard output one JSON
object, the summary that the simulator returns. Invariant: the engine is the one that the preset
`dynamo-mocker` describes. Not here: any import of ours, since this environment has none
(`bench_peer_replay` is what starts it).
"""

import contextlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ENGINE = {
    "num_gpu_blocks": 16_384,
    "block_size": 64,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8_192,
}
LINK = {"kv_transfer_bandwidth": 25.0, "kv_transfer_bytes_per_token": 131_072}
"""GB/s and bytes."""


class Replay(NamedTuple):
    """One run."""

    trace: str
    """Path of a file in the public Mooncake format, with ids of 512-token blocks."""
    router: str
    """`round_robin` or `kv_router`."""
    workers: int
    prefill_workers: int
    """0: every worker does both phases; else so many of them prefill and the others decode."""
    speedup: float
    """Arrivals come so many times as fast."""
    ttft_slo_ms: float
    itl_slo_ms: float
    """A request is good with at most this mean ITL."""


def summary(replay: Replay) -> dict[str, object]:
    """Run the simulator once."""
    if replay.prefill_workers:
        pools = {
            "prefill_engine_args": {"engine": {**ENGINE, **LINK, "worker_type": "prefill"}},
            "decode_engine_args": {"engine": {**ENGINE, **LINK, "worker_type": "decode"}},
            "num_prefill_workers": replay.prefill_workers,
            "num_decode_workers": replay.workers - replay.prefill_workers,
        }
    else:
        pools = {"extra_engine_args": {"engine": ENGINE}, "num_workers": replay.workers}
    with TemporaryDirectory() as folder:
        result = import_module("dynamo._core").run_mocker_trace_replay(
            [replay.trace],
            trace_block_size=512,
            router_mode=replay.router,
            arrival_speedup_ratio=replay.speedup,
            sla_ttft_ms=replay.ttft_slo_ms,
            sla_itl_ms=replay.itl_slo_ms,
            report_jsonl_path=str(Path(folder) / "requests.jsonl"),
            **pools,
        )
    return dict(result.summary)


def main() -> None:
    """Run what the argument asks for."""
    os.environ.setdefault("DYN_LOG", "error")
    with contextlib.redirect_stdout(sys.stderr):
        answer = summary(Replay(**json.loads(sys.argv[1])))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
