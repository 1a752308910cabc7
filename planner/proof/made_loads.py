"""Loads that nobody recorded: a sine, a step, a flash crowd.

Comes in: rates and times. Goes out: loads of chat requests, drawn from a seed.
Invariant: the same arguments give the same load. Not here: recorded loads (`trace_loads`).
"""

from dataclasses import replace

import numpy as np

from planner.proof.load import Floats, Load, drawn, even_spread

PROMPT_TOKENS, OUTPUT_TOKENS = 3_000.0, 300.0
"""Means of a made request, as those by which the peer's planner is shown (ISL 3000, OSL 300)."""
VARIATION = 1.0
"""Standard deviation over mean of both."""


def sine(
    *, low_per_s: float, high_per_s: float, period_s: float, periods: int, step_s: float, seed: int
) -> Load:
    """Make a load that swings between two rates, in requests/s, beginning at the lower."""
    at_s = _middles(period_s * periods, step_s)
    middle, swing = (high_per_s + low_per_s) / 2, (high_per_s - low_per_s) / 2
    rates = middle - swing * np.cos(2 * np.pi * at_s / period_s)
    return _made(f"sine {low_per_s:g}..{high_per_s:g}/s", rates, step_s, seed)


def step_up(
    *, low_per_s: float, high_per_s: float, at_s: float, end_s: float, step_s: float, seed: int
) -> Load:
    """Make a load that steps from one rate to another, in requests/s, and stays."""
    rates = np.where(_middles(end_s, step_s) < at_s, low_per_s, high_per_s)
    return replace(_made(f"step {low_per_s:g} to {high_per_s:g}/s", rates, step_s, seed), burst_s=at_s)


def flash_crowd(
    *,
    rate_per_s: float,
    factor: float,
    at_s: float,
    crowd_s: float,
    rise_s: float,
    end_s: float,
    step_s: float,
    seed: int,
) -> Load:
    """Make a load that jumps to so many times its rate, stays there and ebbs away.

    Args:
        rate_per_s: requests/s before and after.
        factor: of it in the crowd.
        at_s: when the crowd comes.
        crowd_s: how long it stays; it ebbs away, by its e-th part, in a third of that.
        rise_s: how long it takes to come.
        end_s: end of the load.
        step_s: length of a step.
        seed: of the draw.
    """
    times_s = _middles(end_s, step_s)
    rise = np.clip((times_s - at_s) / max(rise_s, 1e-9), 0.0, 1.0)
    ebb = np.exp(-np.maximum(times_s - at_s - crowd_s, 0.0) / (crowd_s / 3))
    rates = rate_per_s * (1 + (factor - 1) * rise * ebb)
    return replace(_made(f"flash crowd {factor:g}x", rates, step_s, seed), burst_s=at_s)


def _middles(end_s: float, step_s: float) -> Floats:
    return np.asarray((np.arange(max(1, round(end_s / step_s))) + 0.5) * step_s, dtype=np.float64)


def _made(name: str, rates_per_s: Floats, step_s: float, seed: int) -> Load:
    ones = np.ones(rates_per_s.size)
    means = Load(
        name=name,
        step_s=step_s,
        arrivals=rates_per_s * step_s,
        prompt_tokens=ones * PROMPT_TOKENS,
        uncached_tokens=ones * PROMPT_TOKENS,
        output_tokens=ones * OUTPUT_TOKENS,
        context_tokens=ones * (PROMPT_TOKENS + OUTPUT_TOKENS * (1 + VARIATION**2) / 2),
        spread=even_spread(VARIATION),
    )
    return drawn(means, seed)
