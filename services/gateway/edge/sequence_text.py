"""One sequence: deltas of tokens to pieces of text. Pure.

Comes in: the deltas of one request, in order. Goes out: a piece per delta.
Invariant: the last piece carries `finish` and nothing follows it; with stop strings no token is told
before its text is, and none that holds a part of the stop string that ended the output.
Not here: where deltas come from (`sequences`).
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from services.domain.errors import InternalFault
from services.domain.stream import Delta, FinishReason, TokenLogprob
from services.gateway.edge.stop_strings import StopMatcher
from services.gateway.edge.vocabulary import Vocabulary

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token that may be told."""

    token_id: int
    text_offset: int
    """Characters of the output before it."""
    logprob: TokenLogprob | None


@dataclass(slots=True)
class Piece:
    """What one delta brought to one choice.

    Attributes:
        index: which choice.
        text: may be empty: half a character, or text that may yet become a stop string.
        tokens: those told with this text; empty unless the call reports tokens.
        output_tokens: tokens the engine wrote in this delta.
        cached_tokens: set once, see `Delta`.
        finish: set on the last piece.
    """

    index: int
    text: str
    tokens: Sequence[Token]
    output_tokens: int
    cached_tokens: int | None
    finish: Finish | None


class SequenceText:
    """The text of one sequence, as it grows."""

    def __init__(
        self,
        *,
        index: int,
        vocabulary: Vocabulary,
        end_token_ids: Collection[int],
        stops: Sequence[str],
        min_tokens: int,
        reports_tokens: bool,
    ) -> None:
        """Begin a sequence.

        Args:
            index: which choice it is.
            vocabulary: of its model.
            end_token_ids: tokens that are no part of the text when they end the sequence.
            stops: strings that end the output.
            min_tokens: tokens before which no stop string is looked for.
            reports_tokens: whether pieces tell tokens.
        """
        self._index = index
        self._detokenizer = vocabulary.detokenizer()
        self._end_token_ids = end_token_ids
        self._matcher = StopMatcher(stops)
        self._min_tokens = min_tokens if stops else 0
        self._by_token = reports_tokens or self._min_tokens > 0
        self._reports_tokens = reports_tokens
        self._tokens_seen = 0
        self._decoded_chars = 0
        self._shown_chars = 0
        self._untold: deque[tuple[Token, int]] = deque()
        """Tokens not told yet, each with the length of the text that its end needs."""

    def fold(self, delta: Delta) -> Piece:
        """Turn a delta into a piece.

        Raises:
            ServingError: the delta says that the request failed.
        """
        finish = _finish_of(delta)
        token_ids = delta.token_ids
        ends = finish == "stop" and bool(token_ids) and token_ids[-1] in self._end_token_ids
        if self._by_token:
            text = "".join(
                [
                    self._push_token(
                        i, delta.logprobs[at] if delta.logprobs else None, hidden=ends and at == last
                    )
                    for last in (len(token_ids) - 1,)
                    for at, i in enumerate(token_ids)
                    if self._matcher.found is None
                ]
            )
        else:
            text = self._show(self._detokenizer.push(token_ids[:-1] if ends else token_ids))
        if finish is not None and self._matcher.found is None:
            text += self._show(self._detokenizer.flush()) + self._matcher.flush()
        if self._matcher.found is not None:
            finish = "stop"
        self._shown_chars += len(text)
        return Piece(
            self._index,
            text,
            self._tell(finish) if self._reports_tokens else (),
            len(token_ids),
            delta.cached_tokens,
            finish,
        )

    def _push_token(self, token_id: int, logprob: TokenLogprob | None, *, hidden: bool) -> str:
        self._tokens_seen += 1
        text = "" if hidden else self._detokenizer.push((token_id,))
        token = Token(token_id, self._decoded_chars, logprob)
        self._decoded_chars += len(text)
        if self._reports_tokens:
            self._untold.append((token, self._decoded_chars))
        if self._tokens_seen <= self._min_tokens:
            return text
        return self._show(text)

    def _show(self, text: str) -> str:
        return self._matcher.push(text) if text else ""

    def _tell(self, finish: Finish | None) -> list[Token]:
        """Take the tokens whose whole text was shown; at the end, all but those of a stop string."""
        ended_freely = finish is not None and self._matcher.found is None
        told = []
        while self._untold and (ended_freely or self._untold[0][1] <= self._shown_chars):
            told.append(self._untold.popleft()[0])
        return told


def _finish_of(delta: Delta) -> Finish | None:
    match delta.finish:
        case None:
            return None
        case FinishReason.STOP:
            return "stop"
        case FinishReason.LENGTH:
            return "length"
        case FinishReason.ABORTED:
            raise delta.error or InternalFault(
                message="the request was aborted, and nobody here asked for it"
            )
        case FinishReason.ERROR:
            raise delta.error or InternalFault(message="the request failed without saying why")
        case other:
            assert_never(other)
