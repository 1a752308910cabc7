"""Tokens to text, one token at a time.

Comes in: token ids in order. Goes out: text, never half a character.
Invariant: all text of one sequence, flush included, equals decoding its ids at once wherever these
are characters; the work per token and the tokens held back are bounded, whatever the model writes.
Not here: stop strings.

`tokenizers.decoders.DecodeStream` (0.23) is not used: 3,000 stray bytes, which a badly trained model
can write, took it 1.4 s since it decodes all of them again for each new one, and a stray byte behind
a character of a byte-fallback vocabulary makes it raise for the rest of the sequence.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

_PENDING_TOKENS_MAX = 8
"""UTF-8 needs at most 4 bytes for a character and each token of it carries at least one; twice that
means that the bytes are no character at all."""

_CONTEXT_TOKENS = 4
"""Tokens before the pending ones that a decoder may look at to decide about a space."""


class Detokenizer(Protocol):
    """The text of one sequence, as it grows."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; give back the text they complete, perhaps empty."""
        ...

    def flush(self) -> str:
        """Give back what is still held, an unfinished character as U+FFFD."""
        ...


class ByteDetokenizer:
    """For byte-level vocabularies: each token is some bytes, the text is their UTF-8."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """Begin a sequence.

        Args:
            token_bytes: shape [vocabulary]; bytes that each token adds to the text.
        """
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; give back the text they complete, perhaps empty.

        A model's vocabulary may be padded beyond its tokenizer's: such ids have no text.
        """
        table, size = self._token_bytes, len(self._token_bytes)
        return self._utf8.decode(b"".join([table[i] for i in token_ids if i < size]))

    def flush(self) -> str:
        """Give back what is still held, an unfinished character as U+FFFD."""
        return self._utf8.decode(b"", True)


class WindowDetokenizer:
    """For every other vocabulary: the tokenizer's own decoder over a short window of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; give back the text they complete, perhaps empty."""
        return "".join([self._step(i) for i in token_ids])

    def flush(self) -> str:
        """Give back what is still held, an unfinished character as U+FFFD."""
        return self._settle(self._decode([*self._context, *self._pending])) if self._pending else ""

    def _step(self, token_id: int) -> str:
        self._pending.append(token_id)
        window = self._decode([*self._context, *self._pending])
        if window.endswith("\ufffd") and len(self._pending) <= _PENDING_TOKENS_MAX:
            return ""
        return self._settle(window)

    def _settle(self, window: str) -> str:
        before = self._decode(self._context)
        text = window[len(before) :] if window.startswith(before) else self._decode(self._pending)
        self._context = [*self._context, *self._pending][-_CONTEXT_TOKENS:]
        self._pending = []
        return text

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)
