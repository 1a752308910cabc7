"""Which work is measured: prompts and batches that together show every constant of the model.

Comes in: what an engine can hold. Goes out: shapes, the cheap ones first. Invariant: each fits the engine;
lengths, cached lengths and counts vary against each other, so that no two constants look alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from services.domain.worker import WorkerLimits

DECODE_STEPS = 24
"""Whole steps of a batch that are watched per round."""
KV_FRAC_MAX = 0.8
"""Share of the KV that a shape may use; above it engines begin to preempt."""
SHORTEST_TOKENS = 32
STEPS_PER_PROMPT_MAX = 4
"""The longest prompt takes as many steps; more tell nothing new."""
COMPUTED_TOKENS_MAX = 262_144
"""Tokens that a batch may have to compute before it decodes: what a round costs."""
COMPUTED_TOKENS_QUICK = 32_768
_BATCHES = (1, 4, 16, 64, 256, 1024)
_CONTEXTS = (32, 512, 2048, 8192, 32_768)
_GROUPS = ((2, 2), (4, 4), (8, 16))
"""Pairs (prompts at once, how many of one prompt's tokens fill a step)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillShape:
    """Prompts to be computed together."""

    prompt_count: int
    new_tokens: int
    cached_tokens: int

    @property
    def computed_tokens(self) -> int:
        """Tokens to compute for one round, the cached ones once."""
        return self.prompt_count * self.new_tokens + self.cached_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeShape:
    """A batch to be decoded."""

    sequence_count: int
    prompt_tokens: int

    @property
    def computed_tokens(self) -> int:
        """Tokens to compute before it decodes."""
        return self.sequence_count * self.prompt_tokens

    def output_tokens(self, step_tokens_max: int) -> int:
        """Most tokens of one sequence: the first may write while the last is still computed."""
        filling = -(-self.computed_tokens // max(step_tokens_max - self.sequence_count, 1))
        return filling + self.sequence_count + DECODE_STEPS + 2


def prefill_shapes(limits: WorkerLimits, *, quick: bool) -> tuple[PrefillShape, ...]:
    """List prompts: alone, behind cached prefixes, several at once."""
    longest = _longest(limits)
    lengths = list(_doubling(SHORTEST_TOKENS, longest, 4 if quick else 2))
    found = [PrefillShape(prompt_count=1, new_tokens=n, cached_tokens=0) for n in lengths]
    block = limits.block_size_tokens
    for share in (2,) if quick else (8, 4, 2):
        cached = longest // share // block * block
        if cached >= block:
            found += [
                PrefillShape(prompt_count=1, new_tokens=n, cached_tokens=cached)
                for n in _doubling(SHORTEST_TOKENS, longest - cached, 8 if quick else 4)
            ]
    for count, share in _GROUPS:
        tokens = min(limits.step_tokens_max // share, longest)
        fits = count * (tokens + block) <= _kv_tokens(limits)
        if count <= limits.sequences_max and tokens >= SHORTEST_TOKENS and fits:
            found.append(PrefillShape(prompt_count=count, new_tokens=tokens, cached_tokens=0))
    return tuple(sorted(set(found), key=lambda s: (s.computed_tokens, s.cached_tokens, s.prompt_count)))


def decode_shapes(limits: WorkerLimits, *, quick: bool) -> tuple[DecodeShape, ...]:
    """List batches: few and many sequences, with short and long contexts."""
    found = []
    for count in _BATCHES:
        for tokens in _CONTEXTS:
            shape = DecodeShape(sequence_count=count, prompt_tokens=tokens)
            longest = tokens + shape.output_tokens(limits.step_tokens_max)
            if (
                count <= limits.sequences_max
                and longest < limits.context_tokens_max
                and count * longest <= _kv_tokens(limits)
                and shape.computed_tokens <= (COMPUTED_TOKENS_QUICK if quick else COMPUTED_TOKENS_MAX)
            ):
                found.append(shape)
    return tuple(sorted(found, key=lambda s: (s.computed_tokens, s.sequence_count)))


def handoff_lengths(limits: WorkerLimits, *, quick: bool) -> tuple[int, ...]:
    """List prompts whose KV is moved, tokens."""
    return tuple(_doubling(SHORTEST_TOKENS, _longest(limits), 4 if quick else 2))


def _longest(limits: WorkerLimits) -> int:
    room = min(limits.context_tokens_max - 2, int(_kv_tokens(limits)))
    return min(room, STEPS_PER_PROMPT_MAX * limits.step_tokens_max)


def _kv_tokens(limits: WorkerLimits) -> float:
    return KV_FRAC_MAX * limits.kv_blocks * limits.block_size_tokens


def _doubling(first: int, last: int, factor: int) -> Iterator[int]:
    length = first
    while length <= last:
        yield length
        length *= factor
