"""How many requests miss their TPOT target with so many decode workers.

Comes in: an engine, a load, a number of workers. Goes out: the share of requests that are late, for each of
several arrival rates. Invariant: falls with workers and with the target, grows with the rate.
Not here: how many workers follow from that (`sizing`).

Decode is a shared processor: a step takes longer the more sequences are in it. The number in flight follows
from Little's law at the step time that this number makes: rate x output x step(batch) = batch. It spreads
more than independent arrivals do, since steps that grow longer keep sequences in flight: linearised around
the mean its variance is the mean over 1 - e, where e is the elasticity of the step time in the batch. (The
chain of arrivals and departures is a symmetric queue, so lengths of outputs do not matter beyond their mean:
F. Kelly, Reversibility and Stochastic Networks, 1979.) A request is late when it meets more sequences than
the largest batch whose step is within the target, that the engine takes at once, and whose KV fits the
memory.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.load import Array, Engine, ExpectedLoad, upper_tail

_GRID = 32
"""Batches for which the step time is computed; between them it is interpolated."""
BALANCED_FRAC = 0.5
"""Of the variance that sequences of different contexts bring, what a router that balances leaves."""
GAIN_MIN = 0.02
"""Least growth of the tokens per second with the batch, both by logarithm, that counts as growth."""
CURVES_MAX = 256
"""Curves remembered."""
_BEYOND = 2.0
"""The grid ends at so many times the largest batch of interest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCurve:
    """What one worker makes of a batch.

    Attributes:
        batch: sequences; shape [n], from 0 upwards.
        tokens_per_s: tokens written per second; shape [n], rising.
        step_s: time of a step; shape [n].
        crowding: variance of the number in flight over its mean; shape [n].
        unevenness: variance of what single sequences add to a step over the squared mean, as far as a router
            that balances leaves it.
        batch_max: largest batch that the engine takes at once and whose KV fits.
    """

    batch: Array
    tokens_per_s: Array
    step_s: Array
    crowding: Array
    unevenness: float
    batch_max: float

    @property
    def sequence_s(self) -> float:
        """What a sequence more adds to a step."""
        return float((self.step_s[-1] - self.step_s[1]) / (self.batch[-1] - self.batch[1]))

    @property
    def fixed_s(self) -> float:
        """Time of a step without its sequences."""
        return float(self.step_s[1]) - float(self.batch[1]) * self.sequence_s


def decode_curve(engine: Engine, load: ExpectedLoad) -> DecodeCurve:
    """Compute the curve of an engine at a load's context, to three digits."""
    variation = max(0.0, load.uncached_square_tokens / max(1.0, load.uncached_tokens) ** 2 - 1.0)
    return _curve(engine, float(f"{max(1.0, load.context_tokens):.3g}"), float(f"{variation:.2g}"))


@lru_cache(maxsize=CURVES_MAX)
def _curve(engine: Engine, context: float, variation: float) -> DecodeCurve:
    """Compute a curve, for contexts of that mean and that variance over its square."""
    most = min(float(engine.sequences_max), engine.kv_tokens / context)
    batch = np.unique(np.linspace(1.0, max(2.0, _BEYOND * most), _GRID).round())
    step = np.array(
        [
            engine.performance.decode_s(sequence_count=int(b), context_tokens=round(b * context))
            for b in batch.tolist()
        ]
    )
    rates = np.maximum.accumulate(batch / step)
    rising = np.concatenate(([True], np.diff(rates) > 0.0))
    batch, step, rates = batch[rising], step[rising], rates[rising]
    gain = np.append(np.diff(np.log(rates)) / np.diff(np.log(batch)), GAIN_MIN)
    crowding = 1.0 / np.clip(gain, GAIN_MIN, 1.0)
    return DecodeCurve(
        batch=np.concatenate(([0.0], batch)),
        tokens_per_s=np.concatenate(([0.0], rates)),
        step_s=np.concatenate(([step[0]], step)),
        crowding=np.concatenate(([1.0], crowding)),
        unevenness=BALANCED_FRAC * variation * _context_share(engine, context) ** 2,
        batch_max=most,
    )


def _context_share(engine: Engine, context: float) -> float:
    """Share of what a sequence adds to a step that grows with its context."""
    one, none = (
        engine.performance.decode_s(sequence_count=1, context_tokens=tokens) for tokens in (round(context), 0)
    )
    least = engine.performance.decode_s(sequence_count=2, context_tokens=0) - none
    return (one - none) / max(1e-12, one - none + least)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeState:
    """Decode workers under a load; every array has shape [plans, rates].

    Attributes:
        batch: sequences per worker, mean.
        step_s: time of a step.
        crowding: variance of the number in flight over its mean.
        is_carried: the load has a steady state at all.
    """

    batch: Array
    step_s: Array
    crowding: Array
    is_carried: NDArray[np.bool_]


def settle(curve: DecodeCurve, tokens_per_s: Array) -> DecodeState:
    """Find the batch at which workers write as much as is asked for.

    Args:
        curve: of one worker.
        tokens_per_s: asked of one worker; shape [plans, rates].
    """
    batch = np.interp(tokens_per_s, curve.tokens_per_s, curve.batch)
    return DecodeState(
        batch=batch,
        step_s=np.interp(batch, curve.batch, curve.step_s),
        crowding=np.interp(batch, curve.batch, curve.crowding),
        is_carried=tokens_per_s < curve.tokens_per_s[-1],
    )


def late_decode(
    curve: DecodeCurve, state: DecodeState, workers: Array, *, tpot_s: Array, dispersion: float
) -> Array:
    """Say which share of requests is late.

    Args:
        curve: of one worker.
        state: of the workers.
        workers: that decode; shape [plans, 1].
        tpot_s: target for a step; shape [plans, rates].
        dispersion: index of dispersion of the arrivals.

    Returns:
        Shape [plans, rates].
    """
    most = np.minimum(curve.batch_max, np.interp(tpot_s, curve.step_s[1:], curve.batch[1:], left=0.0))
    in_flight = state.batch * workers
    chance = (1.0 + dispersion) / 2.0 + curve.unevenness
    spread = np.sqrt(np.maximum(in_flight * state.crowding * chance, 1e-9))
    late = upper_tail((most * workers - in_flight) / spread)
    return np.asarray(np.where(state.is_carried & (most > 0.0) & (workers > 0.0), late, 1.0))
