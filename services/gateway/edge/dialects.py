"""The two ways the OpenAI API writes an answer: chat and completion, whole and in events.

Comes in: a call and the pieces of its choices. Goes out: bytes.
Invariant: the parts of an event that do not change are encoded once per call, so that a token costs
one JSON string; every event decodes as the structs of `openai_replies`.
Not here: sending.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from services.gateway.edge.calls import Call
from services.gateway.edge.openai_replies import (
    ChatChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    ReplyMessage,
    UsageReport,
)
from services.gateway.edge.sequence_text import Finish, Piece, Token
from services.gateway.edge.token_reports import report_chat, report_completion

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class Dialect(Protocol):
    """How one API writes."""

    def opening(self) -> bytes:
        """Events before the first piece, perhaps none."""
        ...

    def event(self, piece: Piece) -> bytes:
        """Events of one piece, perhaps none."""
        ...

    def usage_event(self, usage: UsageReport) -> bytes:
        """Event behind the last piece, for those who asked for it."""
        ...

    def whole(
        self,
        texts: Sequence[str],
        tokens: Sequence[Sequence[Token]],
        finishes: Sequence[Finish],
        usage: UsageReport,
    ) -> bytes:
        """Answer in one body; all sequences have shape [choices]."""
        ...


class _Frame:
    """The unchanging parts of a call's events."""

    def __init__(self, *, answer_id: str, kind: str, model: str, with_usage: bool, created: int) -> None:
        head = {"id": answer_id, "object": kind, "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1]
        # With include_usage, OpenAI sends "usage": null in every chunk but the last.
        self.choice = self._head + (b',"usage":null' if with_usage else b"") + b',"choices":[{"index":'
        self.end = b"}]}\n\n"

    def usage(self, usage: UsageReport) -> bytes:
        return self._head + b',"choices":[],"usage":' + _encode(usage) + b"}\n\n"


class ChatDialect:
    """POST /v1/chat/completions."""

    def __init__(self, call: Call, *, with_usage: bool) -> None:
        self._call = call
        self._id = f"chatcmpl-{call.request_id}"
        self._created = int(time.time())
        self._frame = _Frame(
            answer_id=self._id,
            kind="chat.completion.chunk",
            model=call.model,
            with_usage=with_usage,
            created=self._created,
        )

    def opening(self) -> bytes:
        """Say the role of every choice."""
        delta = b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        frame = self._frame
        return b"".join(
            frame.choice + str(i).encode() + delta + frame.end for i in range(len(self._call.requests))
        )

    def event(self, piece: Piece) -> bytes:
        """Say new text, then perhaps the end."""
        frame = self._frame
        index = b"%d" % piece.index
        said = b""
        if piece.text or piece.tokens:
            logprobs = (
                _encode(report_chat(piece.tokens, self._call.assets.vocabulary)) if piece.tokens else b"null"
            )
            said = b'%b%b,"delta":{"content":%b},"logprobs":%b,"finish_reason":null%b' % (
                frame.choice,
                index,
                _encode(piece.text),
                logprobs,
                frame.end,
            )
        if piece.finish is None:
            return said
        end = b',"delta":{},"logprobs":null,"finish_reason":"%b"' % piece.finish.encode()
        return said + frame.choice + index + end + frame.end

    def usage_event(self, usage: UsageReport) -> bytes:
        """Say the usage."""
        return self._frame.usage(usage)

    def whole(
        self,
        texts: Sequence[str],
        tokens: Sequence[Sequence[Token]],
        finishes: Sequence[Finish],
        usage: UsageReport,
    ) -> bytes:
        """Answer in one body."""
        vocabulary = self._call.assets.vocabulary
        reports = self._call.reports_tokens
        return _encode(
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=self._call.model,
                choices=[
                    ChatChoice(
                        i, ReplyMessage(text), report_chat(told, vocabulary) if reports else None, finish
                    )
                    for i, (text, told, finish) in enumerate(zip(texts, tokens, finishes, strict=True))
                ],
                usage=usage,
            )
        )


class CompletionDialect:
    """POST /v1/completions."""

    def __init__(self, call: Call, *, with_usage: bool) -> None:
        self._call = call
        self._id = f"cmpl-{call.request_id}"
        self._created = int(time.time())
        self._frame = _Frame(
            answer_id=self._id,
            kind="text_completion",
            model=call.model,
            with_usage=with_usage,
            created=self._created,
        )

    def opening(self) -> bytes:
        """Say nothing: completions have no role."""
        return b""

    def event(self, piece: Piece) -> bytes:
        """Say new text and perhaps the end, in one event."""
        if not (piece.text or piece.tokens or piece.finish):
            return b""
        logprobs = (
            _encode(report_completion(piece.tokens, self._call.assets.vocabulary))
            if piece.tokens
            else b"null"
        )
        return b'%b%d,"text":%b,"logprobs":%b,"finish_reason":%b%b' % (
            self._frame.choice,
            piece.index,
            _encode(piece.text),
            logprobs,
            b"null" if piece.finish is None else _encode(piece.finish),
            self._frame.end,
        )

    def usage_event(self, usage: UsageReport) -> bytes:
        """Say the usage."""
        return self._frame.usage(usage)

    def whole(
        self,
        texts: Sequence[str],
        tokens: Sequence[Sequence[Token]],
        finishes: Sequence[Finish],
        usage: UsageReport,
    ) -> bytes:
        """Answer in one body."""
        vocabulary = self._call.assets.vocabulary
        reports = self._call.reports_tokens
        return _encode(
            Completion(
                id=self._id,
                created=self._created,
                model=self._call.model,
                choices=[
                    CompletionChoice(
                        i, text, report_completion(told, vocabulary) if reports else None, finish
                    )
                    for i, (text, told, finish) in enumerate(zip(texts, tokens, finishes, strict=True))
                ],
                usage=usage,
            )
        )
