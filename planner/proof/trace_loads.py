"""Loads out of traces.

Comes in: requests or windows. Goes out: a load. Invariant: requests are counted as they came, never drawn
again; windows are joined by straight lines between their middles and then drawn.
Not here: reading (`trace_text`), loads that nobody recorded (`made_loads`).
"""

import numpy as np

from planner.proof.load import Floats, Load, drawn, even_spread, measured_spread
from planner.proof.trace_text import TracedRequests, TracedWindows

CHAT_PROMPT_TOKENS, CHAT_OUTPUT_TOKENS = 1_155.0, 211.0
"""Means of Azure's conversation trace of 2023 (Splitwise, ISCA 2024), for traces that tell no lengths."""
CHAT_VARIATION = 1.0
"""Standard deviation over mean of prompts and of outputs, where a trace does not tell: as in that trace."""
COPIES_WITHIN_S = 60.0
"""Copies of a trace are shifted against each other by at most so long: the course over minutes is kept."""
TICK_MAX_S = 5.0
"""Arrivals that all lie on ticks of at most so long are spread evenly over them."""


def request_load(
    name: str, requests: TracedRequests, *, speed: float, step_s: float, copies: int = 1
) -> Load:
    """Count requests.

    Args:
        name: of the load.
        requests: as recorded.
        speed: arrivals come so many times as fast.
        step_s: length of a step.
        copies: so many traces at once, shifted against each other by up to a minute (and wrapped around):
            more traffic of the same course, whose bursts of seconds do not coincide.
    """
    recorded_s = _spread_ticks(requests.at_s)
    end_s = float(recorded_s[-1]) + 1e-3
    shift_s = COPIES_WITHIN_S / copies
    at_s = np.concatenate([(recorded_s + copy * shift_s) % end_s for copy in range(copies)]) / speed
    steps = max(1, int(np.ceil(end_s / speed / step_s)))
    place = np.minimum((at_s / step_s).astype(np.int64), steps - 1)
    counts = np.bincount(place, minlength=steps).astype(np.float64)

    def mean(values: Floats) -> Floats:
        sums = np.bincount(place, weights=np.tile(values, copies), minlength=steps)
        return np.where(counts > 0, sums / np.maximum(counts, 1.0), values.mean())

    outputs = requests.output_tokens
    lives = np.asarray(mean((requests.prompt_tokens + outputs / 2) * outputs), dtype=np.float64)
    output_tokens = mean(outputs)
    return Load(
        name=name,
        step_s=step_s,
        arrivals=counts,
        prompt_tokens=mean(requests.prompt_tokens),
        uncached_tokens=mean(requests.uncached_tokens),
        output_tokens=output_tokens,
        context_tokens=lives / output_tokens,
        spread=measured_spread(requests.uncached_tokens),
        dispersion=1.0 if copies > 1 else _dispersion(at_s),
    )


def window_load(
    name: str, windows: TracedWindows, *, speed: float, step_s: float, seed: int, factor: float = 1.0
) -> Load:
    """Draw requests from windows.

    Args:
        name: of the load.
        windows: as recorded.
        speed: the course of time is so many times as fast; rates stay.
        step_s: length of a step.
        seed: of the draw.
        factor: so many times as many requests.
    """
    at_s = (windows.at_s - windows.at_s[0]) / speed
    middle_s = (np.arange(max(1, int(at_s[-1] / step_s))) + 0.5) * step_s

    def over_time(values: Floats | None, default: float) -> Floats:
        if values is None:
            return np.full(middle_s.size, default)
        return np.asarray(np.interp(middle_s, at_s, values), dtype=np.float64)

    prompts = over_time(windows.prompt_tokens, CHAT_PROMPT_TOKENS)
    outputs = over_time(windows.output_tokens, CHAT_OUTPUT_TOKENS)
    means = Load(
        name=name,
        step_s=step_s,
        arrivals=over_time(windows.requests_per_s, 0.0) * step_s * factor,
        prompt_tokens=prompts,
        uncached_tokens=prompts,
        output_tokens=outputs,
        context_tokens=prompts + outputs * (1 + CHAT_VARIATION**2) / 2,
        spread=even_spread(CHAT_VARIATION),
    )
    return drawn(means, seed)


def _spread_ticks(at_s: Floats) -> Floats:
    """Spread arrivals that lie on common ticks evenly over the time to the next tick."""
    moments, first, counts = np.unique(at_s, return_index=True, return_counts=True)
    if moments.size < 2 or counts.mean() < 2:
        return at_s
    tick_s = float(np.median(np.diff(moments)))
    if tick_s > TICK_MAX_S:
        return at_s
    within = (np.arange(at_s.size) - np.repeat(first, counts)) / np.repeat(counts, counts)
    return np.asarray(at_s + within * tick_s, dtype=np.float64)


def _dispersion(at_s: Floats, cell_s: float = 0.1, around: int = 31) -> float:
    """Measure variance over mean of counts in short cells against their own moving mean; at least 1."""
    cells = np.bincount((at_s / cell_s).astype(np.int64)).astype(np.float64)
    if cells.size <= 2 * around:
        return 1.0
    window = np.ones(around) / around
    moving = np.convolve(cells, window, mode="same")
    inner = slice(around, -around)
    excess = float(((cells - moving)[inner] ** 2).mean() / max(moving[inner].mean(), 1e-9))
    return max(1.0, excess / (1.0 - 1.0 / around))
