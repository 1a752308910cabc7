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
from collections.abc import Collection, Sequence
from typing import Protocol

from tokenizers import Tokenizer

_PENDING_TOKENS_MAX = 8
"""UTF-8 needs at most 4 bytes for a character and each token of it carries at least one; twice that
means that the bytes are no character at all."""


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

    def __init__(self, tokenizer: Tokenizer, special_ids: Collection[int]) -> None:
        """Begin a sequence.

        Args:
            tokenizer: of the model.
            special_ids: tokens that are no part of any text.
        """
        self._tokenizer = tokenizer
        self._special_ids = special_ids
        self._context: list[int] = []
        """Tokens of the text shown last: whole characters. Decoders look at what stands before a token
        to decide about its space."""
        self._pending: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; give back the text they complete, perhaps empty."""
        return "".join([self._step(i) for i in token_ids if i not in self._special_ids])

    def flush(self) -> str:
        """Give back what is still held, an unfinished character as U+FFFD."""
        if not self._pending:
            return ""
        text = self._new_text(self._decode([*self._context, *self._pending]))
        # What was flushed may end within a character: no decoder must see it before a whole one.
        self._context, self._pending = [], []
        return text

    def _step(self, token_id: int) -> str:
        self._pending.append(token_id)
        window = self._decode([*self._context, *self._pending])
        if window.endswith("\ufffd"):
            return self.flush() if len(self._pending) > _PENDING_TOKENS_MAX else ""
        text = self._new_text(window)
        # A first space may be stripped; only what stands behind it can show that it was there.
        self._context = self._pending if text else [*self._context, *self._pending][-_PENDING_TOKENS_MAX:]
        self._pending = []
        return text

    def _new_text(self, window: str) -> str:
        before = self._decode(self._context)
        return window[len(before) :] if window.startswith(before) else self._decode(self._pending)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)
