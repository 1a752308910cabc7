"""What vLLM's connector says of transfers is read as bytes and time, and counted by the worker."""

import numpy as np

from services.cluster.inprocess import InProcessCluster
from services.engine.port import EngineStep, KvPulled
from services.engine.vllm.pulls import read_pulled
from tests.cluster.test_requests_in_process import in_cluster
from tests.worker.test_corrupt_kv import counted

TOLD = {
    "transfer_duration": [0.004, 0.006],
    "post_duration": [0.0001, 0.0001],
    "bytes_transferred": [np.int64(4_000_000), 6_000_000],
    "num_descriptors": [12, 12],
    "num_failed_transfers": [],
}
"""As vLLM 0.32 has it after a step in which two transfers ended; durations in seconds."""


def test_transfers_of_a_step_add_up() -> None:
    """Bytes and seconds of all; their quotient is the speed of a transfer."""
    assert read_pulled(TOLD) == KvPulled(moved_bytes=10_000_000, moving_s=0.01)


def test_a_step_without_transfers_says_nothing() -> None:
    """No statistics, none of a transfer, or only failures."""
    assert read_pulled(None) is None
    assert read_pulled({}) is None
    assert read_pulled({name: [] for name in TOLD} | {"num_failed_transfers": [1]}) is None


def test_a_worker_counts_what_its_engine_pulled() -> None:
    """Two counters, from which the achieved bandwidth follows."""

    async def work(cluster: InProcessCluster) -> None:
        worker = cluster.workers["decode-0"]
        for _ in range(2):
            worker._stepped(EngineStep(pulled=KvPulled(moved_bytes=1_000, moving_s=0.5)))
        assert counted(cluster, "baton_kv_pulled_bytes_total") == 2_000
        assert counted(cluster, "baton_kv_pulling_seconds_total") == 1.0

    in_cluster(work)
