"""Which tokens a request must get: a pure function, so that any lost, repeated or mixed-up token shows.

Comes in: a request and the output tokens that exist already. Goes out: the next tokens and why they end.
A token depends on model, cache scope, the whole prefix (prompt and output, flat: where one ends and the
other begins does not matter) and every sampling field that shapes the distribution. As in vLLM 0.32
a generator, penalties or a grammar carry state that starts anew with each submission
(`Sampling.state_starts_at_prompt`); unseeded sampling depends on the request's id instead.
Invariant: same inputs, same tokens, on every machine. Not here: time, text; a JSON schema changes the
tokens but does not make them JSON.
"""

import hashlib
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import FinishReason, TokenLogprob

_MODULUS = 1152921504606843299
"""Largest safe prime below 2**60: powers of 2**32 repeat only after some 2**59 tokens."""
_WORD = 2**64 - 1
_HALF_WORD = 2**32
_SPREAD = 0x9E3779B97F4A7C15
_STIR = 0xBF58476D1CE4E5B9
"""Odd constants of splitmix64 (Steele, Lea, Flood 2014)."""
_TAINT = 0x5DEECE66D


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The token ids that a simulated model writes.

    Attributes:
        size: ordinary ids end before it.
        first_ordinary_id: where ordinary ids begin, behind special tokens and single bytes.
        eos_token_id: end of sequence; outside the ordinary range.
        eos_every_tokens: one token in so many is an end of sequence, on average; 0: none is.
    """

    size: int
    first_ordinary_id: int
    eos_token_id: int
    eos_every_tokens: int


class Continuation:
    """The output of one request, token by token."""

    __slots__ = (
        "_eos_below",
        "_eos_token_id",
        "_first_id",
        "_limit_tokens",
        "_logprobs_count",
        "_min_tokens",
        "_salt",
        "_span",
        "_state",
        "_stateful",
        "_stops",
        "_tainted",
        "_word",
        "count",
    )

    def __init__(
        self,
        request: InferenceRequest,
        *,
        vocabulary: Vocabulary,
        context_tokens_max: int,
        emitted_token_ids: Sequence[int] = (),
    ) -> None:
        sampling = request.sampling
        self._first_id = vocabulary.first_ordinary_id
        self._span = vocabulary.size - vocabulary.first_ordinary_id
        self._eos_token_id = vocabulary.eos_token_id
        self._eos_below = _HALF_WORD // vocabulary.eos_every_tokens if vocabulary.eos_every_tokens else 0
        self._limit_tokens = min(sampling.max_tokens, context_tokens_max - request.prompt_tokens)
        self._min_tokens = sampling.min_tokens
        self._logprobs_count = sampling.logprobs_count
        eos = () if sampling.ignore_eos else (vocabulary.eos_token_id,)
        self._stops = frozenset((*sampling.stop_token_ids, *eos))
        prompt = _fold(request.scope.root() % _MODULUS, request.prompt_token_ids)
        self._state = _fold(prompt, emitted_token_ids)
        self._stateful = sampling.state_starts_at_prompt
        self._salt = _salt(request)
        self._tainted = False
        self._word = 0
        self.count = len(emitted_token_ids)
        """Output tokens so far, those emitted before included."""

    def taint(self, tainted: bool) -> None:
        """Say whether the KV behind the output is not that of its prompt: what follows is wrong then."""
        if tainted != self._tainted:
            self._tainted = tainted
            self._salt ^= _TAINT

    def draw(self) -> int:
        """Write the next token."""
        if self._stateful:
            self._salt += _SPREAD
        word = (self._state * _SPREAD + self._salt) & _WORD
        word = ((word ^ (word >> 32)) * _STIR) & _WORD
        word ^= word >> 29
        self._word = word
        if word & (_HALF_WORD - 1) < self._eos_below:
            token = self._eos_token_id
        else:
            token = self._first_id + (word >> 32) % self._span
        if self.count < self._min_tokens and token in self._stops:
            token = self._beside_stops(token)
        self._state = ((self._state << 32) + token) % _MODULUS
        self.count += 1
        return token

    def finish(self, token_id: int) -> FinishReason | None:
        """Say whether the output ends with this token, the one drawn last."""
        if token_id in self._stops and self.count > self._min_tokens:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.count >= self._limit_tokens else None

    def logprobs(self, token_id: int) -> tuple[TokenLogprob, ...]:
        """Invent log-probabilities at the place of the token drawn last; () when none were asked for.

        The drawn token is the likeliest; `top` has `logprobs_count` entries and begins with it. The
        probabilities sum to less than 1.
        """
        if self._logprobs_count is None:
            return ()
        chosen = 0.5 + 0.4 * ((self._word >> 20) & 0xFFFF) / 0x10000
        count = min(self._logprobs_count, self._span)
        others = (
            (self._neighbour(token_id, i), math.log(1 - chosen) - i * math.log(2)) for i in range(1, count)
        )
        own = math.log(chosen)
        top = ((token_id, own), *others) if count else ()
        return (TokenLogprob(token_id=token_id, logprob=own, top=top),)

    def _beside_stops(self, token_id: int) -> int:
        around = (self._neighbour(token_id, i) for i in range(self._span))
        return next((t for t in around if t not in self._stops), token_id)

    def _neighbour(self, token_id: int, distance: int) -> int:
        return self._first_id + (max(token_id - self._first_id, 0) + distance) % self._span


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a request must get."""

    token_ids: tuple[int, ...]
    finish: FinishReason


def expected_tokens(
    request: InferenceRequest,
    *,
    vocabulary: Vocabulary,
    context_tokens_max: int,
    emitted_token_ids: Sequence[int] = (),
) -> Expected:
    """Compute the whole output of a request, or what follows its emitted tokens.

    Args:
        request: as submitted.
        vocabulary: of the simulated model.
        context_tokens_max: of the engine.
        emitted_token_ids: output tokens that exist already; not repeated in the answer.
    """
    output = Continuation(
        request,
        vocabulary=vocabulary,
        context_tokens_max=context_tokens_max,
        emitted_token_ids=emitted_token_ids,
    )
    tokens: list[int] = []
    finish = None
    while finish is None:
        tokens.append(output.draw())
        finish = output.finish(tokens[-1])
    return Expected(token_ids=tuple(tokens), finish=finish)


def _fold(state: int, token_ids: Sequence[int]) -> int:
    """Append tokens to a prefix read as one number in base 2**32, modulo a prime."""
    words = array("I", token_ids)
    if sys.byteorder == "little":
        words.byteswap()
    number = int.from_bytes(words.tobytes(), "big")
    return (state * pow(1 << 32, len(words), _MODULUS) + number) % _MODULUS


def _salt(request: InferenceRequest) -> int:
    """Hash what shapes the distribution beside the prefix; 0 for plain greedy decoding."""
    sampling = request.sampling
    parts: list[object] = [sampling.logit_bias] if sampling.logit_bias else []
    if sampling.temperature > 0:
        parts += [sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p]
        parts.append(request.request_id if sampling.seed is None else sampling.seed)
    if _penalised(sampling):
        parts += [sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty]
        parts.append(sampling.json_schema)
    if not parts:
        return 0
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _penalised(sampling: Sampling) -> bool:
    return (
        sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or sampling.repetition_penalty != 1
        or sampling.json_schema is not None
    )
