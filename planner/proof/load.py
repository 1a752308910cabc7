"""A load: what arrives in each step of time, and of which size, as the fluid cluster and the bound see it.

Comes in: arrays of equal length. Goes out: a frozen load, and loads made from it. Invariant: every array has
one value per step; means of steps without arrivals are those that a request would have had.
Not here: where it comes from (`trace_text`, `made_loads`), what it costs (`work`).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from services.domain.errors import ConfigurationInvalid

Floats = NDArray[np.float64]

SPREAD_EDGES = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.996, 1.0])
"""The distribution of uncached tokens is told by the means of the parts between these."""
EMPTY = 1e-9
"""Fewer requests are none."""
SPREAD_WEIGHTS = np.diff(SPREAD_EDGES)
"""Share of the requests of each part, shape [points]."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Arrivals over time; every array has shape [steps].

    Attributes:
        name: for people.
        step_s: length of a step.
        arrivals: requests of each step.
        prompt_tokens: mean of a prompt.
        uncached_tokens: mean of what has to be computed of it.
        output_tokens: mean of an output.
        context_tokens: mean KV of a decoding sequence over its life, each weighted by how long it lives.
        spread: shape [points]: uncached tokens over their mean, of each part of the requests, ascending.
        dispersion: variance over mean of the arrivals in a short time; 1 for independent ones.
        burst_s: when a burst begins; None: there is none to recover from.
        counted_from_s: before it the fleet only finds its size; nothing there is counted.
    """

    name: str
    step_s: float
    arrivals: Floats
    prompt_tokens: Floats
    uncached_tokens: Floats
    output_tokens: Floats
    context_tokens: Floats
    spread: Floats
    dispersion: float = 1.0
    burst_s: float | None = None
    counted_from_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no load.

        Raises:
            ConfigurationInvalid: it has no step, or arrays of different lengths.
        """
        sizes = {array.size for array in self.series()}
        if len(sizes) != 1 or 0 in sizes:
            raise ConfigurationInvalid(key="load", message=f"{self.name}: steps of different number: {sizes}")
        if not self.step_s > 0:
            raise ConfigurationInvalid(key="load", message=f"{self.name}: a step of {self.step_s} s")

    def series(self) -> tuple[Floats, ...]:
        """Name the arrays over time."""
        return (
            self.arrivals,
            self.prompt_tokens,
            self.uncached_tokens,
            self.output_tokens,
            self.context_tokens,
        )

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.arrivals.size)

    @cached_property
    def spread_square(self) -> float:
        """Mean square of the spread: 1 plus its variance."""
        return float(self.spread**2 @ SPREAD_WEIGHTS)

    @property
    def duration_s(self) -> float:
        """From the first step to the end of the last."""
        return self.steps * self.step_s

    @property
    def counted(self) -> slice:
        """Steps that are counted."""
        return slice(round(self.counted_from_s / self.step_s), self.steps)


def even_spread(variation: float) -> Floats:
    """Tell a log-normal distribution of mean 1 by the means of its parts.

    Args:
        variation: standard deviation over mean, > 0.
    """
    sigma, normal = math.sqrt(math.log1p(variation * variation)), NormalDist()
    inner = [normal.inv_cdf(float(edge)) - sigma for edge in SPREAD_EDGES[1:-1]]
    below = np.array([0.0, *(normal.cdf(edge) for edge in inner), 1.0])
    return np.asarray(np.diff(below) / SPREAD_WEIGHTS)


def measured_spread(values: Floats) -> Floats:
    """Tell the distribution of measured numbers by the means of its parts.

    Args:
        values: shape [requests], > 0.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.sort(values))])
    at_edges = np.interp(SPREAD_EDGES * values.size, np.arange(values.size + 1), sums)
    return np.asarray(np.diff(at_edges) / (SPREAD_WEIGHTS * values.sum()))


def drawn(load: Load, seed: int) -> Load:
    """Draw whole requests whose means are the load's.

    Counts are Poisson, or gamma-Poisson where the load's dispersion is above 1. Mean lengths of a step
    scatter as those of so many independent requests do.

    Args:
        load: its arrivals are means.
        seed: of the draw.
    """
    chance = np.random.default_rng(seed)
    means = np.maximum(load.arrivals, 0.0)
    if load.dispersion > 1.0:
        scale = load.dispersion - 1.0
        means = chance.gamma(np.maximum(means / scale, 1e-12), scale)
    counts = chance.poisson(means).astype(np.float64)
    errors = chance.standard_normal((2, load.steps)) / np.sqrt(np.maximum(counts, 1.0))
    variation = math.sqrt(load.spread_square - 1.0)
    uncached = load.uncached_tokens * np.clip(1.0 + variation * errors[0], 0.2, 5.0)
    outputs = load.output_tokens * np.clip(1.0 + errors[1], 0.2, 5.0)
    return replace(
        load,
        arrivals=counts,
        prompt_tokens=load.prompt_tokens + uncached - load.uncached_tokens,
        uncached_tokens=uncached,
        output_tokens=np.maximum(outputs, 1.0),
    )


def averaged(load: Load, over_s: float) -> Load:
    """Average arrivals, and lengths over the requests, over so long around each step."""
    around = max(1, round(over_s / load.step_s))
    if around == 1:
        return load
    ones = np.ones(around)
    steps = np.convolve(np.ones(load.steps), ones, mode="same")
    counts = np.convolve(load.arrivals, ones, mode="same")

    def over(values: Floats) -> Floats:
        sums = np.convolve(load.arrivals * values, ones, mode="same")
        return np.where(counts > EMPTY, sums / np.maximum(counts, EMPTY), values)

    prompts, uncached, outputs, contexts = (over(values) for values in load.series()[1:])
    return replace(
        load,
        arrivals=counts / steps,
        prompt_tokens=prompts,
        uncached_tokens=uncached,
        output_tokens=outputs,
        context_tokens=contexts,
    )


def multiplied(load: Load, factor: float) -> Load:
    """Let so many times as many requests arrive in the same time."""
    return replace(load, name=f"{load.name}, {factor:g} times", arrivals=load.arrivals * factor)


def led_in(load: Load, *, lead_s: float, like_s: float, seed: int) -> Load:
    """Put a quiet time before a load, in which a fleet finds its size and a forecast its footing.

    Args:
        load: what is counted.
        lead_s: length of the quiet time.
        like_s: it is drawn from the mean of so long a beginning.
        seed: of the draw.
    """
    steps, like = max(1, round(lead_s / load.step_s)), max(1, round(like_s / load.step_s))
    weights = np.maximum(load.arrivals[:like], 1e-9)
    prompt, uncached, output, context = (
        np.full(steps, np.average(array[:like], weights=weights)) for array in load.series()[1:]
    )
    quiet = drawn(
        replace(
            load,
            arrivals=np.full(steps, load.arrivals[:like].mean()),
            prompt_tokens=prompt,
            uncached_tokens=uncached,
            output_tokens=output,
            context_tokens=context,
        ),
        seed,
    )
    return replace(
        load,
        arrivals=np.concatenate([quiet.arrivals, load.arrivals]),
        prompt_tokens=np.concatenate([quiet.prompt_tokens, load.prompt_tokens]),
        uncached_tokens=np.concatenate([quiet.uncached_tokens, load.uncached_tokens]),
        output_tokens=np.concatenate([quiet.output_tokens, load.output_tokens]),
        context_tokens=np.concatenate([quiet.context_tokens, load.context_tokens]),
        burst_s=None if load.burst_s is None else load.burst_s + steps * load.step_s,
        counted_from_s=steps * load.step_s,
    )
