"""A cluster whose fleet grows and shrinks under Baton's policy loses nothing, and spares those who leave."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replay.cluster import Cluster
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.traces import Trace
from tests.replay.scenery import engine, traces
from tests.replay.test_replay_conserves import assert_whole

MOST = 4


@settings(max_examples=40, deadline=None)
@given(trace=traces(), sizes=st.lists(st.integers(1, MOST), min_size=1, max_size=8))
def test_only_present_workers_get_prompts_and_all_end(trace: Trace, sizes: list[int]) -> None:
    """A size per arrival, again and again: who was beyond it when a prompt came was not given it by then."""
    cluster = Cluster(
        trace,
        engine(kv_blocks=400),
        worker_count=MOST,
        policy=lambda fleet: POLICIES["baton"](fleet, PolicyOptions()),
        itl_slo_s=0.02,
    )
    cluster.resize(sizes[0])
    seen_max = sizes[0]

    def resize(now: Cluster) -> None:
        nonlocal seen_max
        size = sizes[now.arrived_count % len(sizes)]
        seen_max = max(seen_max, size)
        now.resize(size)

    cluster.run(resize, every=1)
    assert_whole(cluster)
    assert all(record.prefill_worker < seen_max for record in cluster.records)
