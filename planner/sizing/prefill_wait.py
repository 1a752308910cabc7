"""How many requests miss their TTFT target with so many prefill workers.

Comes in: an engine, a load, a number of workers. Goes out: the share of requests that are late, for each of
several arrival rates. Invariant: falls with workers and with the target, grows with the rate.
Not here: how many workers follow from that (`sizing`).

Prefill workers take from one queue whatever waits, up to a full step, so a step is the longer the more
arrived during the one before. A request is on time when residual of a step + own step + queue fit the target:

- *Gate.* Steps of g seconds on average, g = a + u g, where a is a step's fixed cost and u the load without
  it: g = a / (1 - u). Prompts that arrive within one interval of a worker that comes free share the next
  step. Their number varies, which lengthens later steps in turn; the interval averages over the steps of all
  workers. Mean and variance follow; a gamma distribution of these moments (Wilson and Hilferty, 1931) is
  taken.
- *Queue.* When steps are full, work queues up. The tail of the wait is exponential, at the rate of heavy
  traffic (Kingman, 1962), met by those who find all workers busy (H. Sakasegawa, 1977). What is late stands
  behind and holds up nobody, so of a utilisation b and a tail w only (1 - b) w / (1 - b w) are late (Boots
  and Tijms, 1999). The same holds beyond b = 1, where it tends to what is too much, 1 - 1 / b; there all
  steps are full, and who is in time has stood in the queue.
- *Long prompts.* Nobody begins while every worker is in the middle of a long one; workers meet those
  independently.

Prompt lengths are taken as lognormal with the measured mean and square.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from planner.load import Array, Engine, ExpectedLoad, upper_tail
from services.domain.performance import PrefillChunk

_EDGES = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.996, 0.999, 1.0])
"""Lengths are told by the means of the parts between these. No prompt is longer than the last mean: a
lognormal tail has no end, and the square of the times that it makes would be that of prompts that no model
takes."""
_WEIGHTS = np.diff(_EDGES)
_NORMAL = NormalDist()
_INNER = [_NORMAL.inv_cdf(edge) for edge in _EDGES[1:-1].tolist()]

SATURATED = 0.999
"""Most that a step is taken to be full of prompts: some of it is its fixed cost."""
STOOD_FRAC = 0.5
"""Of the time that its own prefill leaves, what a prompt in time has stood in a queue that grows."""
_NOT_ONE = 1e-6
"""Utilisations as near to 1 count as so far below it: the share of late ones is the same on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCosts:
    """What prompts of a load cost on an engine.

    Attributes:
        alone_s: time of a prompt alone in its steps; shape [lengths].
        step_s: fixed cost of a step.
        marginal_s: mean that a prompt adds to a step.
        marginal_square_s2: mean square of that.
        full_s: mean of a prompt's share in full steps, their fixed costs included.
        full_square_s2: mean square of that.
        median_tokens: of the uncached lengths.
        spread_log: standard deviation of their logarithm.
    """

    alone_s: Array
    step_s: float
    marginal_s: float
    marginal_square_s2: float
    full_s: float
    full_square_s2: float
    median_tokens: float
    spread_log: float


def prefill_costs(engine: Engine, load: ExpectedLoad) -> PrefillCosts:
    """Say what the prompts of a load cost."""
    performance, most = engine.performance, engine.step_tokens_max
    mean = max(1.0, load.uncached_tokens)
    spread_log = math.sqrt(math.log(max(1.0, load.uncached_square_tokens / (mean * mean))))
    median = mean * math.exp(-spread_log * spread_log / 2.0)
    cached = max(0, round(load.prompt_tokens - load.uncached_tokens))
    lengths = [max(1, round(mean * share)) for share in _part_means(spread_log)]
    full_token_s = performance.steps_s(tokens=most, step_tokens_max=most) / most
    marginal = np.array(
        [performance.chunk_s(PrefillChunk(new_tokens=n, context_tokens=cached)) for n in lengths]
    )
    alone = marginal + np.array([performance.steps_s(tokens=n, step_tokens_max=most) for n in lengths])
    full = marginal + full_token_s * np.array(lengths, dtype=np.float64)
    return PrefillCosts(
        alone_s=alone,
        step_s=performance.steps_s(tokens=1, step_tokens_max=most),
        marginal_s=float(_WEIGHTS @ marginal),
        marginal_square_s2=float(_WEIGHTS @ (marginal * marginal)),
        full_s=float(_WEIGHTS @ full),
        full_square_s2=float(_WEIGHTS @ (full * full)),
        median_tokens=median,
        spread_log=spread_log,
    )


def alone_within_s(engine: Engine, load: ExpectedLoad, costs: PrefillCosts, share: float) -> float:
    """Say within which time so large a share of prompts is computed if none ever waits, s."""
    z = NormalDist().inv_cdf(share)
    tokens = max(1, round(costs.median_tokens * math.exp(costs.spread_log * z)))
    cached = max(0, round(load.prompt_tokens - load.uncached_tokens))
    return engine.performance.prompt_s(
        prompt_tokens=tokens + cached, cached_tokens=cached, step_tokens_max=engine.step_tokens_max
    )


def _part_means(spread_log: float) -> list[float]:
    """Means of the parts of a lognormal distribution of mean 1; shape [parts]."""
    below = np.array([0.0, *(_NORMAL.cdf(z - spread_log) for z in _INNER), 1.0])
    return [float(mean) for mean in np.diff(below) / _WEIGHTS]


def late_prefill(
    costs: PrefillCosts, rates: Array, workers: Array, *, ttft_s: float, dispersion: float
) -> Array:
    """Say which share of the prompts that can be in time is late.

    Args:
        costs: of the prompts.
        rates: arrivals in requests per second; shape [rates].
        workers: that prefill, a fraction being part of a worker's time; shape [plans, rates].
        ttft_s: target.
        dispersion: index of dispersion of the arrivals.

    Returns:
        Shape [plans, rates].
    """
    counts = np.maximum(workers, 1e-9)
    per_worker = rates / counts
    full_load = per_worker * costs.full_s
    full = min(SATURATED, costs.marginal_s / costs.full_s)  # u of full steps
    load = np.minimum(per_worker * costs.marginal_s, full)  # u
    square = costs.marginal_square_s2 + (dispersion - 1.0) * costs.marginal_s**2
    step = costs.step_s / (1.0 - load)
    step_var = step * per_worker * square / ((1.0 - load * load / np.maximum(counts, 1.0)) * counts)
    seen = step + step_var / step  # a long step is met by more requests
    reach = 0.5 / counts + load
    mean = seen * reach
    var = step_var * reach * reach + seen * seen / (12.0 * counts * counts) + per_worker * seen * square
    crowd = np.maximum(1.0, per_worker * step)
    exponent = np.sqrt(2.0 * (counts + 1.0)) - 1.0  # H. Sakasegawa: probability that all are busy
    waits = np.minimum(per_worker * (costs.marginal_s + costs.step_s / crowd), 1.0) ** exponent
    busy = np.minimum(full_load, 1.0) ** exponent

    possible = costs.alone_s < ttft_s
    slack = (ttft_s - costs.alone_s)[possible]
    weights = _WEIGHTS[possible] / _WEIGHTS[possible].sum()
    shape = (9.0 * mean * mean / (var + 1e-18))[..., None]
    root = np.cbrt(slack / (mean[..., None] + 1e-12))
    gate = waits[..., None] * upper_tail((root - 1.0 + 1.0 / shape) * np.sqrt(shape))
    full_turn_s = costs.step_s / (1.0 - full) * (1.0 + 0.5 / counts)
    grown_s = np.maximum(np.minimum(slack, ttft_s - full_turn_s[..., None]) - STOOD_FRAC * slack, 0.0)
    full_square = costs.full_square_s2 + (dispersion - 1.0) * costs.full_s**2
    pace = counts / (per_worker * full_square + 1e-12)
    queue = _stands_too_long(1.0 - full_load, busy, pace, slack, grown_s)
    rest_s = np.maximum(costs.alone_s - slack[:, None], 0.0) @ _WEIGHTS  # of a prompt beyond each slack
    stuck = np.minimum(per_worker[..., None] * rest_s, 1.0) ** np.maximum(counts, 1.0)[..., None]
    late = np.maximum(np.maximum(gate, queue), stuck) @ weights
    return np.asarray(np.minimum(late, 1.0))


def _stands_too_long(idle: Array, busy: Array, pace: Array, slack: Array, grown_s: Array) -> Array:
    """Say which share of the prompts stands in the queue for too long.

    Args:
        idle: 1 - utilisation, below 0 where a queue grows; shape [plans, rates].
        busy: probability that all workers are; shape [plans, rates].
        pace: workers over the variance of the work that each is given in a second, 1/s; shape [plans, rates].
        slack: time that a prompt's own prefill leaves, s; shape [lengths].
        grown_s: what is left of it where a queue grows, s; shape [plans, rates, lengths].

    Returns:
        Shape [plans, rates, lengths].
    """
    idle = np.where(np.abs(idle) < _NOT_ONE, _NOT_ONE, idle)[..., None]
    left_s = np.where(idle > 0.0, slack, grown_s)
    tail = busy[..., None] * np.exp(-np.clip(2.0 * idle * pace[..., None] * left_s, -50.0, 50.0))
    return np.asarray(idle * tail / (1.0 - (1.0 - idle) * tail))
