"""Measures are what their definitions say, on runs small enough to be counted by hand."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.errors import ConfigurationInvalid
from services.replay.cluster import Cluster
from services.replay.measures import CURVE_POINTS, measure
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.run import ReplaySettings, replay
from services.replay.traces import Trace
from services.replay.workloads import make_workload
from tests.replay.scenery import engine, token_times_s, trace_of, traces


def replayed(trace: Trace, workers: int = 2) -> Cluster:
    """Replay on small workers."""
    cluster = Cluster(
        trace,
        engine(kv_blocks=300),
        worker_count=workers,
        policy=lambda fleet: POLICIES["round-robin"](fleet, PolicyOptions()),
        itl_slo_s=0.02,
    )
    cluster.run()
    return cluster


@settings(max_examples=60, deadline=None)
@given(trace=traces(), ttft_slo_s=st.sampled_from([0.02, 0.05, 0.2]), itl_slo_s=st.sampled_from([6e-3, 0.02]))
def test_measures_follow_their_definitions(trace: Trace, ttft_slo_s: float, itl_slo_s: float) -> None:
    """From the tokens' times alone."""
    cluster = replayed(trace)
    found = measure(cluster, ttft_slo_s=ttft_slo_s, itl_slo_s=itl_slo_s)
    times = [np.array(one) for one in token_times_s(cluster)]
    ttfts = [one[0] - request.arrival_s for one, request in zip(times, trace.requests, strict=True)]
    gaps = [np.diff(one) for one in times]
    assert found.ttft_ms.mean == pytest.approx(1e3 * np.mean(ttfts))
    assert found.ttft_ms.p95 == pytest.approx(1e3 * np.percentile(ttfts, 95))
    assert found.ttft_ms.p50 == pytest.approx(1e3 * np.percentile(ttfts, 50))
    pooled = np.concatenate(gaps)
    assert found.itl_ms.p99 == pytest.approx(1e3 * np.percentile(pooled, 99) if len(pooled) else 0.0)
    for curve, spread in ((found.curves.ttft_ms, found.ttft_ms), (found.curves.itl_ms, found.itl_ms)):
        assert list(curve) == sorted(curve)
        at = [curve[round(percent * (CURVE_POINTS - 1) / 100)] for percent in (50, 95, 99)] if curve else []
        assert at == pytest.approx([spread.p50, spread.p95, spread.p99] if curve else [], abs=1e-3)
    good = [
        ttft <= ttft_slo_s and (not len(own) or own.mean() <= itl_slo_s)
        for ttft, own in zip(ttfts, gaps, strict=True)
    ]
    strict = [
        ttft <= ttft_slo_s and (not len(own) or np.percentile(own, 99) <= itl_slo_s)
        for ttft, own in zip(ttfts, gaps, strict=True)
    ]
    assert found.goodput_count == sum(good)
    assert found.goodput_p99_count == sum(strict)
    assert found.completed_count == found.requests == len(trace.requests)
    assert 0 <= found.hit_frac < 1
    rounding = 1e-9
    for use in found.utilisation:
        assert 0 <= use.prefill_frac <= use.busy_frac + rounding
        assert use.busy_frac <= 1 + rounding


def test_hits_queue_and_use_are_counted() -> None:
    """The second of two equal prompts finds all but its last block; both wait until computed."""
    cluster = replayed(trace_of((0.0, 16, 2, [1] * 4), (1.0, 16, 2, [1] * 4)), workers=1)
    found = measure(cluster, ttft_slo_s=1.0, itl_slo_s=1.0)
    assert found.hit_frac == 12 / 32
    assert max(point.waiting_max_count for point in found.queue) == 1
    assert found.queue[-1].waiting_max_count == 0
    idle_s = 1.0 - token_times_s(cluster)[0][-1]
    assert found.utilisation_frac == pytest.approx(1 - idle_s / found.duration_s)


def test_a_report_holds_its_measures_and_all_settings() -> None:
    """One flat record, and the same again when replayed again."""
    settings = ReplaySettings(
        policy="dynamo-kv", workers=3, speedup=2.0, timing="dynamo-mocker", prefill_workers=1, first=30
    )
    trace = make_workload("shared-prefix", seed=1, count=40)
    report, _cluster = replay(trace, settings)
    again, _cluster = replay(trace, settings)
    assert replace(report, took_s=0.0) == replace(again, took_s=0.0)
    told = msgspec.json.decode(msgspec.json.encode(report))
    assert told["requests"] == 30
    for key in ("ttft_ms", "tpot_ms", "itl_ms"):
        assert set(told[key]) == {"mean", "p50", "p95", "p99"}
    assert told["settings"]["speedup"] == 2.0
    assert told["engine"]["kv_blocks"] == 16_384
    assert told["mechanisms"]["moves_whole_prompts"] is True
    assert {"goodput_count", "goodput_p99_count", "hit_frac", "utilisation", "queue", "trace"} <= set(told)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy", "no-such"), ("timing", "no-such"), ("workers", 0), ("speedup", 0.0), ("itl_slo_s", -1.0),
        ("first", 0), ("spread_s", -1.0), ("event_delay_s", float("nan")),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(key: str, value: object) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationInvalid) as caught:
        msgspec.convert({"policy": "round-robin", key: value}, ReplaySettings)
    assert caught.value.key == key


@pytest.mark.parametrize("prefill_workers", [0, 3, 4])
def test_a_split_keeps_both_pools(prefill_workers: int) -> None:
    """No pool is empty."""
    settings = ReplaySettings(policy="least-loaded", workers=3, prefill_workers=prefill_workers)
    with pytest.raises(ConfigurationInvalid, match="leave no worker"):
        replay(make_workload("bursts", seed=0, count=2), settings)
