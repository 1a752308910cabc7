"""With the peer's timing and limits, small traces take what its own simulator was seen to take.

The figures are those of NVIDIA Dynamo 1.6.1's offline simulator on the same requests.
"""

import pytest

from services.domain.performance import PrefillChunk
from services.replay.cluster import Cluster
from services.replay.policies import POLICIES
from services.replay.policies.options import PolicyOptions
from services.replay.traces import TRACE_BLOCK_TOKENS, Trace
from tests.replay.scenery import PEERS_ENGINE, token_times_s, trace_of


def prompts(*requests: tuple[float, int, int], shared: bool = False) -> Trace:
    """Requests of (arrival s, prompt tokens, output tokens), all with one beginning or with none."""
    named = [
        (arrival_s, prompt, output, [0] * (prompt // TRACE_BLOCK_TOKENS + 1) if shared else [])
        for arrival_s, prompt, output in requests
    ]
    return trace_of(*named, trace_block_tokens=TRACE_BLOCK_TOKENS)


def replayed(
    trace: Trace, *, workers: int = 1, policy: str = "round-robin", prefill_workers: int | None = None
) -> Cluster:
    """Replay on the peer's engine."""
    options = PolicyOptions(prefill_workers=prefill_workers)
    cluster = Cluster(
        trace,
        PEERS_ENGINE,
        worker_count=workers,
        policy=lambda fleet: POLICIES[policy](fleet, options),
        itl_slo_s=0.025,
    )
    cluster.run()
    return cluster


def prefill_s(tokens: int) -> float:
    """Time of a step that prefills so many tokens."""
    return PEERS_ENGINE.performance.prefill_s([PrefillChunk(new_tokens=tokens, context_tokens=0)])


def test_one_prompt_alone() -> None:
    """The first token leaves with the step that computed the prompt; the second costs one decode."""
    ((first_s, second_s),) = token_times_s(replayed(prompts((0.0, 1_000, 2))))
    assert first_s == pytest.approx(32.1059e-3, abs=1e-7)
    assert second_s - first_s == pytest.approx(
        PEERS_ENGINE.performance.decode_s(sequence_count=1, context_tokens=1_001)
    )


def test_two_prompts_at_once_share_a_step() -> None:
    """Both first tokens leave together."""
    times_s = token_times_s(replayed(prompts((0.0, 1_000, 1), (0.0, 2_000, 1))))
    assert times_s == [[pytest.approx(prefill_s(3_000))]] * 2


def test_a_long_prompt_takes_full_steps() -> None:
    """8,192 tokens a step."""
    ((first_s,),) = token_times_s(replayed(prompts((0.0, 20_000, 1))))
    assert first_s == pytest.approx(2 * prefill_s(8_192) + prefill_s(3_616))


@pytest.mark.parametrize(("tokens", "cached"), [(1_024, 960), (1_000, 960)])
def test_whole_blocks_are_reused_but_never_the_last_token(tokens: int, cached: int) -> None:
    """The same prompt a second time."""
    cluster = replayed(prompts((0.0, tokens, 1), (1.0, tokens, 1), shared=True))
    assert [record.cached_tokens for record in cluster.records] == [0, cached]


def test_a_prefix_is_shared_within_the_step_that_computes_it() -> None:
    """Two prompts with a common beginning, admitted together."""
    trace = trace_of((0.0, 1_100, 1, [0, 0]), (0.0, 1_424, 1, [0, 0]), trace_block_tokens=512)
    cluster = replayed(trace)
    assert [record.cached_tokens for record in cluster.records] == [0, 1_024]
    assert token_times_s(cluster) == [[pytest.approx(prefill_s(1_500))]] * 2


def test_a_handoff_costs_a_transfer_and_a_decode() -> None:
    """1,000 tokens through two workers; whole blocks move here, 24 tokens more than at the peer."""
    ((first_s, _second_s),) = token_times_s(
        replayed(prompts((0.0, 1_000, 2)), workers=2, policy="dynamo-kv", prefill_workers=1)
    )
    assert first_s == pytest.approx(43.1402e-3 + 24 * 131_072 / 25e9, abs=1e-7)


def test_kv_routing_costs_prefill_under_way_and_blocks_in_use() -> None:
    """Three prompts on two workers at one moment: the third joins the first, at 30.6 blocks against 34.2."""
    cluster = replayed(
        prompts((0.0, 1_000, 9), (0.0, 1_100, 9), (0.0, 500, 9)), workers=2, policy="dynamo-kv"
    )
    first, second, third = (record.decode_worker for record in cluster.records)
    assert first != second
    assert third == first


def test_kv_routing_goes_where_the_prefix_is() -> None:
    """Idle workers differ by their caches only."""
    trace = prompts(*((float(number), 6_000, 2) for number in range(6)), shared=True)
    cluster = replayed(trace, workers=4, policy="dynamo-kv")
    assert len({record.prefill_worker for record in cluster.records}) == 1
    assert all(record.cached_tokens > 5_900 for record in cluster.records[1:])
