"""How many workers decode: enough for the pace, few enough for prompts, whatever the load."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.performance import PRESETS
from services.router.roles import Decodes, Demand, DemandRecord, RecentLoad, decoder_count, step_limit_s

MODEL = PRESETS["dynamo-mocker"]
DEFAULT = "h200-llama-3.1-8b-fp8"
QUIET = Demand(load=0.05, mean_s=0.2, variation=1.0, dispersion=1.0)


def chosen(
    demand: Demand,
    *,
    sequences: int,
    tokens: float,
    workers: int = 8,
    ttft_target_s: float = 2.0,
    now: int | None = None,
) -> int:
    """Choose for engines of one preset."""
    return decoder_count(
        workers,
        demand,
        step_s=lambda n: MODEL.decode_s(sequence_count=-(-sequences // n), context_tokens=round(tokens / n)),
        ttft_target_s=ttft_target_s,
        tpot_target_s=0.025,
        now=now,
    )


@given(
    st.integers(1, 64), st.floats(0, 100), st.floats(0, 5), st.integers(1, 4000), st.integers(0, 10_000_000)
)
def test_each_phase_keeps_a_worker(
    workers: int, load: float, dispersion: float, sequences: int, tokens: int
) -> None:
    """At any load one worker is left for prompts, and one decodes."""
    demand = Demand(load=load, mean_s=0.2, variation=1.0, dispersion=dispersion)
    count = chosen(demand, sequences=sequences, tokens=tokens, workers=workers)
    assert 1 <= count <= max(1, workers - 1)


@given(st.floats(0.1, 6.0), st.floats(0.001, 0.06), st.floats(1.0, 50.0), st.integers(8, 400))
def test_short_prompts_do_not_wait_for_longer_because_the_target_would_allow_it(
    load: float, mean_s: float, dispersion: float, sequences: int
) -> None:
    """A target of many times what prompts take by themselves is as good as one of a minute."""
    short = Demand(load=load, mean_s=mean_s, variation=0.5, dispersion=dispersion)
    counts = {
        chosen(short, sequences=sequences, tokens=2_000 * sequences, ttft_target_s=target_s)
        for target_s in (2.0, 60.0)
    }
    assert len(counts) == 1


@given(st.floats(0.1, 6.0), st.floats(1.0, 20.0), st.integers(8, 400), st.integers(1, 7))
def test_a_number_stays_or_becomes_the_best(load: float, dispersion: float, sequences: int, now: int) -> None:
    """What was chosen last keeps others from being chosen only where it is itself about as good."""
    demand = Demand(load=load, mean_s=0.2, variation=1.0, dispersion=dispersion)
    tokens = 2_000 * sequences
    best = chosen(demand, sequences=sequences, tokens=tokens)
    assert chosen(demand, sequences=sequences, tokens=tokens, now=now) in (now, best)
    assert chosen(demand, sequences=sequences, tokens=tokens, now=best) == best


def test_it_takes_more_than_a_sequence_to_change_it() -> None:
    """At the border between two numbers each of them stays while sequences come and go."""
    demand = Demand(load=2.0, mean_s=0.2, variation=1.0, dispersion=2.0)
    counts = [chosen(demand, sequences=n, tokens=2_000 * n) for n in range(20, 400)]
    border = next(n for n, (one, two) in enumerate(pairwise(counts), start=20) if one < two)
    fewer, more = counts[border - 20], counts[border - 19]
    for sequences in (border, border + 1):
        for now in (fewer, more):
            assert chosen(demand, sequences=sequences, tokens=2_000 * sequences, now=now) == now


def test_waits_are_measured_by_the_target_where_prompts_are_long() -> None:
    """Or not known yet."""
    long = Demand(load=1.0, mean_s=0.5, variation=1.0, dispersion=1.0)
    assert long.wait_scale_s(2.0) == replace(long, mean_s=0.0).wait_scale_s(2.0) == 2.0
    assert replace(long, mean_s=0.01, variation=0.0).wait_scale_s(2.0) == pytest.approx(0.24)


def test_more_to_decode_takes_more_workers() -> None:
    """With the same prompts, longer contexts get more workers."""
    busy = Demand(load=2.0, mean_s=0.2, variation=2.0, dispersion=5.0)
    counts = [chosen(busy, sequences=50, tokens=tokens) for tokens in (10_000, 400_000, 1_500_000)]
    assert counts == sorted(set(counts))


def test_a_target_is_kept_where_it_can_be() -> None:
    """However many prompts wait, decoding gets the workers that its target needs."""
    flood = Demand(load=50.0, mean_s=0.2, variation=1.0, dispersion=1.0)
    count = chosen(flood, sequences=80, tokens=1_600_000)
    assert MODEL.decode_s(sequence_count=20, context_tokens=1_600_000 // count) <= 0.95 * 0.025
    assert MODEL.decode_s(sequence_count=20, context_tokens=1_600_000 // (count - 1)) > 0.95 * 0.025


def test_a_flood_of_prompts_leaves_decoding_what_it_needs() -> None:
    """Where prompts pile up without end anyway, no worker decodes that could help with them."""
    flood = Demand(load=50.0, mean_s=0.2, variation=1.0, dispersion=1.0)
    assert chosen(flood, sequences=4, tokens=50_000) == 1


def test_prompts_take_workers_from_decoding() -> None:
    """The more prefill arrives, or the more at once, the fewer workers decode."""
    busy = Demand(load=3.5, mean_s=0.2, variation=2.0, dispersion=1.0)
    bursts = Demand(load=0.05, mean_s=0.2, variation=1.0, dispersion=30.0)
    quiet = chosen(QUIET, sequences=10, tokens=120_000)
    assert chosen(busy, sequences=10, tokens=120_000) < quiet
    assert chosen(bursts, sequences=10, tokens=120_000) < quiet


@pytest.mark.parametrize("burst", [1, 10])
def test_load_and_bursts_are_learned(burst: int) -> None:
    """Ten prompts of 0.1 s each 3 s are a third of a worker's work, and a burst of ten is seen as one."""
    record = DemandRecord()
    for number in range(600):
        at_s = 3.0 * (number // burst) if burst > 1 else 0.3 * number
        record.fold(0.1, at_s, shared_s=0.1)
    demand = record.demand()
    assert demand.load == pytest.approx(1 / 3, rel=0.15)
    assert demand.mean_s == pytest.approx(0.1)
    assert demand.variation == pytest.approx(0.0, abs=1e-9)
    if burst > 1:
        assert demand.dispersion == pytest.approx(burst, rel=0.3)
    else:
        assert demand.dispersion < 1.0


@given(st.integers(1, 30), st.floats(0, 40))
def test_more_workers_wait_less(workers: int, load: float) -> None:
    """The predicted wait never grows with the number of workers."""
    demand = Demand(load=load, mean_s=0.2, variation=1.5, dispersion=4.0)
    assert demand.wait_s(workers + 1) <= demand.wait_s(workers)


@given(st.integers(1, 30), st.floats(0, 40), st.floats(0, 40), st.floats(0, 30))
def test_a_load_of_just_now_waits_no_longer_than_one_that_lasts(
    workers: int, load: float, recent_load: float, recent_s: float
) -> None:
    """And no less than what lasts; more workers wait less all the same."""
    lasting, both = (
        Demand(load=load, mean_s=0.2, variation=1.5, dispersion=4.0),
        Demand(load=max(load, recent_load), mean_s=0.2, variation=1.5, dispersion=4.0),
    )
    lately = replace(lasting, recent_load=recent_load, recent_s=recent_s)
    assert lasting.wait_s(workers) <= lately.wait_s(workers) + 1e-12
    assert lately.wait_s(workers) <= both.wait_s(workers)
    assert lately.wait_s(workers + 1) <= lately.wait_s(workers) + 1e-12


def test_a_queue_grows_only_while_more_comes_than_is_done() -> None:
    """Three times what a worker does, for two seconds: two seconds of it wait on average, chance besides."""
    calm = Demand(load=0.1, mean_s=1e-4, variation=0.0, dispersion=1.0)
    burst = replace(calm, recent_load=3.0, recent_s=2.0)
    assert burst.wait_s(1) == pytest.approx(2.0, rel=0.02)
    assert replace(burst, mean_s=0.1).wait_s(1) > 2.2


@given(st.integers(1, 30), st.floats(0, 20), st.floats(0, 40), st.floats(0, 30), st.floats(0.1, 30))
def test_a_wait_that_passes_counts_for_so_much_at_most(
    workers: int, load: float, recent_load: float, recent_s: float, factor: float
) -> None:
    """However long it is and however wrong the formula was; and more workers wait less all the same."""
    lasting = Demand(load=load, mean_s=0.2, variation=1.5, dispersion=4.0)
    lately = replace(lasting, recent_load=recent_load, recent_s=recent_s)
    counted_s = lately.wait_s(workers, factor=factor, passing_max_s=0.7)
    assert counted_s <= factor * lasting.wait_s(workers) + 0.7 + 1e-12
    assert counted_s <= factor * lately.wait_s(workers) + 1e-12
    assert lately.wait_s(workers + 1, factor=factor, passing_max_s=0.7) <= counted_s + 1e-12


@given(st.integers(1, 30), st.floats(0, 60), st.floats(0.05, 1), st.floats(0, 60), st.floats(0, 30))
def test_prompts_that_share_steps_wait_no_longer(
    workers: int, load: float, shared_frac: float, recent_load: float, recent_s: float
) -> None:
    """And more workers wait less all the same."""
    alone = Demand(
        load=load, mean_s=0.2, variation=1.5, dispersion=4.0, recent_load=recent_load, recent_s=recent_s
    )
    shared = replace(alone, shared_frac=shared_frac)
    assert shared.wait_s(workers) <= alone.wait_s(workers) + 1e-12
    assert shared.wait_s(workers + 1) <= shared.wait_s(workers) + 1e-12


def test_full_steps_carry_what_prompts_one_by_one_would_not() -> None:
    """Six workers' work that is three in full steps, on four: no queue without end, nor one of nothing."""
    alone = Demand(load=6.0, mean_s=0.04, variation=1.0, dispersion=1.0)
    assert alone.wait_s(4) > 10.0
    assert 0.02 < replace(alone, shared_frac=0.5).wait_s(4) < 0.2


def test_a_flood_that_passes_takes_no_more_workers_from_decoding_than_one_that_lasts() -> None:
    """What it makes late is late whoever decodes: long steps are spared those that decode meanwhile."""
    calm = Demand(load=1.5, mean_s=0.12, variation=1.0, dispersion=2.0)
    passing = replace(calm, recent_load=5.0, recent_s=6.0)
    lasting = replace(calm, load=5.0)
    for sequences in (100, 150, 200):
        few, many = (chosen(one, sequences=sequences, tokens=3_000 * sequences) for one in (lasting, passing))
        assert few < many


def test_recent_work_is_forgotten_within_its_memory() -> None:
    """Ten prompts of 0.1 s at once are half a second per second over two seconds, and soon nothing."""
    recent = RecentLoad()
    for _ in range(10):
        recent.fold(0.1, 5.0, 2.0)
    assert recent.load(5.0, 2.0) == pytest.approx(0.5)
    assert recent.load(25.0, 2.0) < 0.001


@given(st.integers(1, 16), st.integers(1, 200), st.integers(0, 3_000_000))
def test_workers_fill_up_but_not_beyond_the_target(decoders: int, sequences: int, tokens: int) -> None:
    """So many workers can each take their share and somewhat more, unless the target forbids it."""
    decodes = Decodes(performance=PRESETS[DEFAULT], sequence_count=sequences, context_tokens=tokens)
    limit_s = step_limit_s(decoders, decodes, tpot_target_s=0.025)
    assert limit_s <= 0.95 * 0.025
    assert limit_s >= min(decodes.step_s(decoders), 0.95 * 0.025)
    if decoders > 1 and limit_s < 0.95 * 0.025:
        assert limit_s < decodes.step_s(decoders, more=1), "and not one more"
