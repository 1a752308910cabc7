"""How long answers of a model become: learned from requests that ended, asked when one arrives.

Comes in: lengths of ended outputs, and whether the model ended them by itself. Goes out: the mean length
to expect under a limit, or None while too few are known. Invariant: a length is counted once, older ones
fade, and nothing is expected beyond what was ever observed: ignorance refuses nobody. At most
`MODELS_MAX` models are remembered.
Form: survival by length in buckets that double (the actuarial life table, a grouped Kaplan-Meier
estimate). An output that was cut (at `max_tokens`, by its client) was at least as long as seen; counting
it as ended would teach that answers are as short as their limits.
Not here: what is decided with it (`services.router.placement`).
"""

from collections import OrderedDict
from dataclasses import dataclass, field

MODELS_MAX = 256
"""Models remembered; the one that ended a request longest ago goes first."""

SAMPLES_MIN = 8.0
"""Outputs, weighted by their freshness, from which on an expectation is given."""

FADE = 1.0 - 1.0 / 512.0
"""Weight that a count keeps with each later output: about the last 512 outputs speak."""

BUCKETS = 24
"""Bucket b holds lengths from 2**b up to 2**(b+1): 16 million tokens in all."""


@dataclass(slots=True)
class _Lengths:
    """Faded counts of one model, by bucket."""

    ended: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    cut: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)

    def fold(self, output_tokens: int, *, complete: bool) -> None:
        self.ended = [count * FADE for count in self.ended]
        self.cut = [count * FADE for count in self.cut]
        bucket = min(output_tokens.bit_length() - 1, BUCKETS - 1)
        (self.ended if complete else self.cut)[bucket] += 1.0

    def expect(self, limit: int) -> int | None:
        at_risk = sum(self.ended) + sum(self.cut)
        if at_risk < SAMPLES_MIN:
            return None
        mean, survival = 1.0, 1.0  # the first token is certain
        for bucket in range(BUCKETS):
            start, width = 1 << bucket, 1 << bucket
            if at_risk < 1.0 or start >= limit:
                break
            ended, cut = self.ended[bucket], self.cut[bucket]
            exposed = at_risk - cut / 2
            after = survival * (1.0 - min(1.0, ended / exposed))
            share = min(1.0, (limit - start) / width)
            at_share = survival + (after - survival) * share
            mean += (survival + at_share) / 2 * width * share
            at_risk -= ended + cut
            survival = after
        return max(1, min(limit, round(mean)))


class OutputLengths:
    """Expectations of all models."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Lengths] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def fold(self, model: str, output_tokens: int, *, complete: bool) -> None:
        """Learn from an ended output.

        Args:
            model: which wrote it.
            output_tokens: its length; 0 teaches nothing.
            complete: whether the model ended it, rather than a limit, a client or a failure.
        """
        if output_tokens < 1:
            return
        lengths = self._models.setdefault(model, _Lengths())
        self._models.move_to_end(model)
        if len(self._models) > MODELS_MAX:
            self._models.popitem(last=False)
        lengths.fold(output_tokens, complete=complete)

    def expect(self, model: str, output_tokens_max: int) -> int | None:
        """Say how long an output is expected to become.

        Args:
            model: which is to write it.
            output_tokens_max: its limit, >= 1.

        Returns:
            Mean length under that limit, in [1, output_tokens_max]; None while too little is known.
        """
        lengths = self._models.get(model)
        return None if lengths is None else lengths.expect(output_tokens_max)
