"""llm-d's scorers do what their sources say they do."""

from dataclasses import replace

from services.replay.policies.llm_d import SentPrefixes, llm_d
from services.replay.policies.options import PolicyOptions
from services.replay.policy import Way
from tests.replay.choosing import StillFleet, job


def test_a_known_beginning_outweighs_kv_use() -> None:
    """Three for the whole prompt, two for an empty cache."""
    fleet = StillFleet(4)
    policy = llm_d(fleet, PolicyOptions())
    home = policy.arrive(job(0, 1, 2, 3, 4), 0.0).prefill
    fleet.states[home] = replace(fleet.states[home], free_blocks=0)
    assert policy.arrive(job(1, 1, 2, 3, 4), 0.0).prefill == home
    assert policy.arrive(job(2, 1, 2, 7, 8), 0.0).prefill != home  # 1.5 of 3 against 2 of 2


def test_the_longest_queue_scores_nothing_however_short_it_is() -> None:
    """Queues are measured from the least to the most: one waiting request may cost all two points."""
    fleet = StillFleet(2)
    policy = llm_d(fleet, PolicyOptions())
    home = policy.arrive(job(0, 1, 2, 3, 4), 0.0).prefill
    fleet.states[home] = replace(fleet.states[home], waiting_count=1)
    assert policy.arrive(job(1, 1, 2, 7, 8), 0.0).prefill == 1 - home  # 1.5 of 3 against 2 of 2
    fleet.states[1 - home] = replace(fleet.states[1 - home], waiting_count=1)
    assert policy.arrive(job(2, 1, 2, 7, 9), 0.0).prefill in (home, 1 - home)
    assert policy.arrive(job(3, 1, 2, 3, 4), 0.0).prefill == home


def test_on_two_pools_the_decode_worker_computes_what_it_hardly_lacks() -> None:
    """Fewer than 16 tokens; else a prefill worker does."""
    fleet = StillFleet(4)
    policy = llm_d(fleet, PolicyOptions(prefill_workers=2))
    first = policy.arrive(job(0, 1, 2, 3), 0.0)
    assert first.prefill in (0, 1)
    assert first.decode in (2, 3)
    again = policy.arrive(job(1, 1, 2, 3, tail_tokens=15), 0.0)
    assert again == Way(prefill=first.decode, decode=first.decode)
    longer = policy.arrive(job(2, 1, 2, 3, tail_tokens=16), 0.0)
    assert longer == Way(prefill=first.prefill, decode=first.decode)


def test_kv_on_its_way_counts_as_waiting() -> None:
    """As vLLM counts it: the choice of the decode worker hangs on it."""
    fleet = StillFleet(4)
    fleet.states[2] = replace(fleet.states[2], pulling_count=1)
    policy = llm_d(fleet, PolicyOptions(prefill_workers=2))
    assert {policy.arrive(job(index, index), 0.0).decode for index in range(20)} == {3}


def test_the_least_recently_sent_blocks_are_forgotten() -> None:
    """Each worker's by itself; a match ends where nobody was sent a block."""
    sent = SentPrefixes(capacity_blocks=3)
    sent.add([1, 2, 3], 0)
    sent.add([1, 2], 1)
    assert sent.matches([1, 2, 3, 4], 2) == [3, 2]
    sent.add([1, 9], 0)
    assert sent.matches([1, 2, 3, 4], 2) == [2, 2]
    sent.add([7, 8, 9], 1)
    assert sent.matches([1, 2, 3, 4], 2) == [1, 0]
