"""Nothing is lost on the way: every request ends once, with all its tokens, and every block comes back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replay.cluster import TOO_LONG, Cluster
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.policy import Fleet, Mechanisms
from services.replay.traces import Trace
from tests.replay.scenery import LateBound, engine, mechanisms, token_times_s, trace_of, traces


def assert_whole(cluster: Cluster, *, may_refuse: bool = False) -> None:
    """Check requests and blocks of a finished replay; what was refused got nothing."""
    for record, times_s in zip(cluster.records, token_times_s(cluster), strict=True):
        if may_refuse and record.refused:
            assert record.ended_s is None
            assert not times_s
            continue
        assert not record.refused
        assert len(times_s) == record.output_tokens
        assert times_s == sorted(times_s)
        assert times_s[0] > record.arrival_s
        assert record.ended_s is not None
        assert times_s[-1] <= record.ended_s
        assert 0 <= record.cached_tokens < max(record.prompt_tokens, 1)
    for worker in cluster.workers:
        assert worker.cache.private == 0
        assert worker.cache.free_blocks == worker.cache.capacity_blocks
        assert not worker.batch.running
        assert not worker.batch.waiting
        assert worker.batch.decode_count == worker.batch.decode_context_tokens == 0
        assert worker.batch.prefill_pending_tokens == 0


@settings(max_examples=60, deadline=None)
@given(
    trace=traces(),
    name=st.sampled_from(sorted(POLICIES)),
    split=st.sampled_from([None, 1, 2]),
    ways=mechanisms,
)
def test_under_policies_that_place_at_once(
    trace: Trace, name: str, split: int | None, ways: Mechanisms
) -> None:
    """Aggregated and split."""
    options = PolicyOptions(prefill_workers=split, mechanisms=ways)
    cluster = Cluster(
        trace,
        engine(kv_blocks=200),
        worker_count=3,
        policy=lambda fleet: POLICIES[name](fleet, options),
        itl_slo_s=0.02,
    )
    cluster.run()
    assert_whole(cluster, may_refuse=name == "mooncake")


@settings(max_examples=60, deadline=None)
@given(trace=traces(), ways=mechanisms, delay_s=st.sampled_from([0.0, 0.03]))
def test_under_a_policy_that_keeps_jobs(trace: Trace, ways: Mechanisms, delay_s: float) -> None:
    """With fetched prefixes and soft roles, with true and with late views; each job is told of once."""
    made: list[LateBound] = []

    def make(fleet: Fleet) -> LateBound:
        made.append(LateBound(fleet, ways))
        return made[0]

    cluster = Cluster(
        trace,
        engine(kv_blocks=400),
        worker_count=3,
        policy=make,
        itl_slo_s=0.02,
        status_delay_s=delay_s,
        event_delay_s=delay_s,
    )
    cluster.run()
    assert_whole(cluster)
    everybody = list(range(len(trace.requests)))
    assert sorted(made[0].spoken) == everybody
    assert sorted(made[0].done) == everybody


def test_a_request_that_fits_no_worker_is_refused() -> None:
    """The others are served as if it had not come."""
    trace = trace_of((0.0, 10, 5, ()), (0.01, 300, 5, ()), (0.02, 10, 5, ()))
    cluster = Cluster(
        trace,
        engine(),
        worker_count=1,
        policy=lambda fleet: POLICIES["round-robin"](fleet, PolicyOptions()),
        itl_slo_s=0.02,
    )
    cluster.run()
    assert [record.refused for record in cluster.records] == [None, TOO_LONG, None]
    assert cluster.ended_count == 2
