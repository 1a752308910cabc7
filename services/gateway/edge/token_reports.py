"""Log-probabilities of told tokens, as the two APIs want them.

Comes in: tokens and their vocabulary. Goes out: reply structs.
Invariant: every number is one that JSON can hold.
"""

import math
from collections.abc import Sequence

from services.gateway.edge.openai_replies import (
    AlternativeToken,
    ChatLogprobs,
    ChatToken,
    CompletionLogprobs,
)
from services.gateway.edge.sequence_text import Token
from services.gateway.edge.vocabulary import Vocabulary

_LOGPROB_MIN = -9999.0
"""What the OpenAI API sends for a token of (almost) no probability; JSON has no -Infinity."""


def report_chat(tokens: Sequence[Token], vocabulary: Vocabulary) -> ChatLogprobs:
    """Render tokens for a chat choice."""
    return ChatLogprobs(
        [
            ChatToken(
                vocabulary.token_text(t.token_id),
                _finite(t.logprob.logprob),
                list(vocabulary.token_bytes(t.token_id)),
                [
                    AlternativeToken(vocabulary.token_text(i), _finite(p), list(vocabulary.token_bytes(i)))
                    for i, p in t.logprob.top
                ],
            )
            for t in tokens
            if t.logprob is not None
        ]
    )


def report_completion(tokens: Sequence[Token], vocabulary: Vocabulary) -> CompletionLogprobs:
    """Render tokens for a completion choice."""
    known = [(t, t.logprob) for t in tokens if t.logprob is not None]
    return CompletionLogprobs(
        tokens=[vocabulary.token_text(t.token_id) for t, _ in known],
        token_logprobs=[_finite(p.logprob) for _, p in known],
        top_logprobs=[{vocabulary.token_text(i): _finite(v) for i, v in p.top} for _, p in known],
        text_offset=[t.text_offset for t, _ in known],
    )


def _finite(logprob: float) -> float:
    return _LOGPROB_MIN if math.isnan(logprob) else max(logprob, _LOGPROB_MIN)
