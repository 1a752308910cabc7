"""What streaming KV and an early first token do to a request, each in a case that can be followed by hand."""

from dataclasses import replace

import pytest

from services.domain.first_gap import PLANNED_FRAC
from services.replay.cluster import Cluster
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.policy import FirstToken, Mechanisms
from services.replay.presets import EngineTiming
from tests.replay.scenery import engine, token_times_s, trace_of

TIMING = engine(kv_blocks=100)
CHUNKS_S = [
    TIMING.performance.steps_s(tokens=24, step_tokens_max=24) + 24 * 0.13e-3 + 0.7e-6 * 24 * (before + 12)
    for before in (0, 24, 48)
]
"""Three full steps of a prompt of 72 tokens."""
DECODE_S = TIMING.performance.decode_s(sequence_count=1, context_tokens=73)
CHUNK_MOVES_S = 24 * 10 / 50e3


def times_s(mechanisms: Mechanisms, timing: EngineTiming = TIMING) -> list[float]:
    """Token times of one prompt of 72 tokens, prefilled by one worker and written by another."""
    options = PolicyOptions(prefill_workers=1, mechanisms=mechanisms)
    cluster = Cluster(
        trace_of((0.0, 72, 3, ())),
        timing,
        worker_count=2,
        policy=lambda fleet: POLICIES["round-robin"](fleet, options),
        itl_slo_s=0.004,
    )
    cluster.run()
    return token_times_s(cluster)[0]


def test_the_classic_way_waits_for_all_of_it() -> None:
    """Prefill, the whole transfer, and the last prompt token once more as a decode."""
    last_again_s = TIMING.performance.decode_s(sequence_count=1, context_tokens=72)
    expected = sum(CHUNKS_S) + 3 * CHUNK_MOVES_S + TIMING.performance.handoff_s + last_again_s
    assert times_s(Mechanisms())[0] == pytest.approx(expected)


def test_streamed_kv_leaves_only_the_last_chunk_to_move() -> None:
    """A chunk moves quicker than the next is computed, so the others are there already."""
    assert max(CHUNKS_S) > CHUNK_MOVES_S
    streamed = times_s(Mechanisms(streams_kv=True, first_token=FirstToken.PREFILL))
    classic = times_s(Mechanisms(first_token=FirstToken.PREFILL))
    assert streamed[0] == classic[0] == pytest.approx(sum(CHUNKS_S))
    moves_s = CHUNK_MOVES_S + TIMING.performance.handoff_s
    assert streamed[1] == pytest.approx(sum(CHUNKS_S) + moves_s + DECODE_S)
    assert classic[1] - streamed[1] == pytest.approx(2 * CHUNK_MOVES_S)


def test_streamed_layers_leave_only_the_last_layer_to_move() -> None:
    """All others move while the chunk is computed; a link slower than the engine still takes its time."""
    layered = Mechanisms(streams_kv=True, streams_layers=True, first_token=FirstToken.PREFILL)
    last_layer_s = CHUNK_MOVES_S / TIMING.layers
    arrived_s = sum(CHUNKS_S) + last_layer_s + TIMING.performance.handoff_s
    assert times_s(layered)[0] == pytest.approx(sum(CHUNKS_S))
    assert times_s(layered)[1] == pytest.approx(arrived_s + DECODE_S)
    slow = replace(TIMING, performance=replace(TIMING.performance, transfer_bytes_per_s=100.0))
    began_s = CHUNKS_S[0] / TIMING.layers
    arrived_s = began_s + 720 / 100 + TIMING.performance.handoff_s
    assert times_s(layered, slow)[1] == pytest.approx(arrived_s + DECODE_S)


@pytest.mark.parametrize("streams_kv", [True, False])
def test_a_token_just_in_time_leaves_the_target_before_the_second(streams_kv: bool) -> None:
    """On an idle worker the prediction is right: the gap is as planned, the second token stays."""
    at_once = times_s(Mechanisms(streams_kv=streams_kv, first_token=FirstToken.PREFILL))
    in_time = times_s(Mechanisms(streams_kv=streams_kv, first_token=FirstToken.JUST_IN_TIME))
    assert in_time[1:] == at_once[1:]
    assert in_time[1] - in_time[0] == pytest.approx(PLANNED_FRAC * 0.004)


def test_short_outputs_begin_at_their_pace() -> None:
    """Once outputs are known to be short, their first gap is a step, as every other one."""
    options = PolicyOptions(prefill_workers=1, mechanisms=Mechanisms(first_token=FirstToken.JUST_IN_TIME))
    cluster = Cluster(
        trace_of(*((float(index), 72, 3, ()) for index in range(20))),
        TIMING,
        worker_count=2,
        policy=lambda fleet: POLICIES["round-robin"](fleet, options),
        itl_slo_s=0.01,
    )
    cluster.run()
    first_gaps_s = [times[1] - times[0] for times in token_times_s(cluster)]
    assert first_gaps_s[0] == pytest.approx(PLANNED_FRAC * 0.01)
    assert first_gaps_s[-1] == pytest.approx(DECODE_S)
    assert DECODE_S < PLANNED_FRAC * 0.01
