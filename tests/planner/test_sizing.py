"""The fewest workers for a load: monotone in what is asked, and near what queues really do."""

import heapq
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.load import Spread
from planner.settings import KindSettings
from planner.sizing.needs import Needs, Sizing
from planner.sizing.prefill_wait import prefill_costs
from services.domain.slo import Slo
from tests.planner.situations import RELAXED, TIGHT, engine, load

RATES = st.floats(0.5, 300.0)
PROMPTS = st.floats(50.0, 8_000.0)
OUTPUTS = st.floats(5.0, 800.0)


def needs(
    requests_per_s: float,
    *,
    slo: Slo = RELAXED,
    prompt_tokens: float = 1_155.0,
    output_tokens: float = 211.0,
    allowed: float = 0.01,
    spills: bool = False,
) -> Needs:
    """Workers for a load."""
    sized = Sizing(
        engine(),
        load(requests_per_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens),
        slo,
        spills=spills,
    )
    return sized.needs(allowed_late_frac=allowed)


@given(rate=RATES, factor=st.floats(1.0, 3.0), prompt=PROMPTS, output=OUTPUTS, spills=st.booleans())
@settings(max_examples=25, deadline=None)
def test_more_demand_never_needs_fewer_workers(
    rate: float, factor: float, prompt: float, output: float, spills: bool
) -> None:
    """The total grows with the rate, whatever the lengths."""
    few = needs(rate, prompt_tokens=prompt, output_tokens=output, spills=spills)
    many = needs(rate * factor, prompt_tokens=prompt, output_tokens=output, spills=spills)
    assert many.total >= few.total


@given(rate=RATES, prompt=PROMPTS, output=OUTPUTS, ease=st.floats(1.0, 5.0))
@settings(max_examples=25, deadline=None)
def test_stricter_targets_never_need_fewer_workers(
    rate: float, prompt: float, output: float, ease: float
) -> None:
    """A looser TTFT, a looser TPOT or a larger allowance never costs a worker.

    But a TTFT that longer prompts can meet at all has these to keep in time, too: that may cost one in ten.
    """
    strict = needs(rate, slo=TIGHT, prompt_tokens=prompt, output_tokens=output)
    alone_s = prefill_costs(engine(), load(rate, prompt_tokens=prompt, output_tokens=output)).alone_s
    is_more_asked = (alone_s < TIGHT.ttft_s).sum() < (alone_s < TIGHT.ttft_s * ease).sum()
    for slo, more in (
        (Slo(ttft_s=TIGHT.ttft_s * ease, tpot_s=TIGHT.tpot_s), is_more_asked * (1 + strict.total // 10)),
        (Slo(ttft_s=TIGHT.ttft_s, tpot_s=TIGHT.tpot_s * ease), 0),
    ):
        assert needs(rate, slo=slo, prompt_tokens=prompt, output_tokens=output).total <= strict.total + more
    assert (
        needs(rate, slo=TIGHT, prompt_tokens=prompt, output_tokens=output, allowed=0.05).total <= strict.total
    )


@given(rate=RATES, prompt=PROMPTS, output=OUTPUTS, prefill=st.integers(1, 40), decode=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_another_worker_never_makes_more_requests_late(
    rate: float, prompt: float, output: float, prefill: int, decode: int
) -> None:
    """Shares are in [0, 1] and fall with either role, unless prefill lets in what decode cannot hold."""
    sized = Sizing(engine(), load(rate, prompt_tokens=prompt, output_tokens=output), TIGHT, spills=False)
    late, another_prefill, another_decode, let_in = sized.late(
        np.array([prefill, prefill + 1, prefill, 10_000], dtype=np.float64),
        np.array([decode, decode, decode + 1, decode], dtype=np.float64),
    )
    for share in (late, another_prefill, another_decode, let_in):
        assert 0.0 <= share <= 1.0
    slack = 1e-4 if late < 0.5 else 0.02
    assert another_prefill <= max(late, let_in) + slack
    assert another_decode <= late + slack


@given(rate=RATES, prompt=PROMPTS, output=OUTPUTS, spills=st.booleans())
@settings(max_examples=25, deadline=None)
def test_needs_are_the_fewest(rate: float, prompt: float, output: float, spills: bool) -> None:
    """What is found keeps the allowance, and no role can give up a worker."""
    sized = Sizing(engine(), load(rate, prompt_tokens=prompt, output_tokens=output), RELAXED, spills=spills)
    found = sized.needs(allowed_late_frac=0.01)
    assert sized.late_of(found.prefill, found.decode) <= 0.01
    if found.prefill > 1:
        assert sized.late_of(found.prefill - 1, found.decode) > 0.01
    if found.decode > 1:
        assert sized.late_of(found.prefill, found.decode - 1) > 0.01


@given(rate=RATES, prefill=st.integers(1, 60), decode=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_where_the_search_begins_hardly_matters(rate: float, prefill: int, decode: int) -> None:
    """Begun anywhere it ends within one worker of the same total."""
    sized = Sizing(engine(), load(rate), TIGHT, spills=True)
    plain = sized.needs(allowed_late_frac=0.01)
    hinted = sized.needs(allowed_late_frac=0.01, hint=Needs(prefill=prefill, decode=decode))
    assert abs(hinted.total - plain.total) <= 1


def test_decode_workers_that_take_prompts_save_part_of_a_worker() -> None:
    """What is missing of a whole prefill worker need not cost one."""
    rates = [float(rate) for rate in range(10, 200, 10)]
    apart = [needs(rate, spills=False).total for rate in rates]
    together = [needs(rate, spills=True).total for rate in rates]
    assert all(b <= a for a, b in zip(apart, together, strict=True))
    assert sum(together) < sum(apart)


@pytest.mark.parametrize(
    ("slo", "word"),
    [(Slo(ttft_s=0.01, tpot_s=0.025), "TTFT"), (Slo(ttft_s=2.0, tpot_s=0.001), "TPOT")],
)
def test_a_target_out_of_reach_is_said_and_replaced_by_the_nearest(slo: Slo, word: str) -> None:
    """No worker is asked for in vain: the plan is that of the nearest target that can be reached."""
    sized = Sizing(engine(), load(40.0), slo, spills=False)
    assert len(sized.unreachable) == 1
    assert word in sized.unreachable[0]
    found = sized.needs(allowed_late_frac=0.01)
    assert needs(40.0, slo=RELAXED).total <= found.total < 60


@pytest.mark.parametrize("rate", [120.0, 250.0, 400.0])
def test_each_role_pays_for_its_own_doubt_only(rate: float) -> None:
    """Of prompts known badly and outputs known well, no decode worker more is planned; and the reverse."""
    found = {
        (prompts, outputs): Sizing(
            engine(),
            replace(load(rate), spread=Spread(prefill_frac=prompts, decode_frac=outputs)),
            TIGHT,
            spills=False,
        ).needs(allowed_late_frac=0.01)
        for prompts in (0.0, 0.4)
        for outputs in (0.0, 0.4)
    }
    sure = found[0.0, 0.0]
    assert found[0.4, 0.0].decode <= sure.decode + 1, "both share one allowance"
    assert found[0.0, 0.4].prefill <= sure.prefill + 1
    assert found[0.4, 0.0].prefill > sure.prefill
    assert sure.total < found[0.4, 0.0].total < found[0.4, 0.4].total
    assert sure.total <= found[0.0, 0.4].total < found[0.4, 0.4].total


def test_memory_bounds_the_batch() -> None:
    """Long contexts need more decode workers than their steps alone would."""
    small = KindSettings(kv_tokens=100_000)
    roomy, tight = (Sizing(engine(kind), load(40.0), RELAXED, spills=False) for kind in (None, small))
    assert tight.needs(allowed_late_frac=0.01).decode > roomy.needs(allowed_late_frac=0.01).decode


def simulated_late_frac(*, requests_per_s: float, workers: int, ttft_s: float, requests: int) -> float:
    """Share of late prompts of workers that take what waits, up to a full step, from one queue."""
    model, most, rng = engine().performance, engine().step_tokens_max, Random(3)
    spread = math.sqrt(math.log(2.0))
    at_s, arrivals = 0.0, []
    for _ in range(requests):
        at_s += rng.expovariate(requests_per_s)
        tokens = max(1, round(1_155.0 * math.exp(rng.gauss(-spread * spread / 2, spread))))
        arrivals.append((at_s, tokens))
    free_s = [0.0] * workers
    late = place = 0
    while place < requests:
        begin_s = max(heapq.heappop(free_s), arrivals[place][0])
        first, tokens, own_s = place, 0, 0.0
        while place < requests and arrivals[place][0] <= begin_s and tokens < most:
            new = arrivals[place][1]
            tokens += new
            own_s += model.prefill_token_s * new + model.prefill_attention_s * new * new / 2
            place += 1
        end_s = begin_s + model.prefill_step_s * max(1.0, tokens / most) + own_s
        late += sum(end_s - arrived_s > ttft_s for arrived_s, _tokens in arrivals[first:place])
        heapq.heappush(free_s, end_s)
    return late / requests


@pytest.mark.parametrize(
    ("requests_per_s", "workers"), [(15.0, 1), (30.0, 1), (60.0, 2), (90.0, 3), (160.0, 6)]
)
def test_late_prompts_are_those_of_a_simulated_queue(requests_per_s: float, workers: int) -> None:
    """Within a factor of three, or a hundredth, of prompts that are drawn and served one by one."""
    sized = Sizing(engine(), load(requests_per_s, spread_frac=0.0), TIGHT, spills=False)
    expected = sized.late_of(float(workers), 1_000.0)
    seen = simulated_late_frac(requests_per_s=requests_per_s, workers=workers, ttft_s=0.2, requests=10_000)
    assert expected == pytest.approx(seen, abs=max(0.01, 2.0 * min(seen, expected)))
