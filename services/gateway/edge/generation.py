"""POST /v1/chat/completions and POST /v1/completions.

Comes in: HTTP exchanges. Goes out: answers, whole or streamed.
Invariant: an error before the first piece is an HTTP status; a stream that began ends either with
`data: [DONE]` or with one `data: {"error": ...}`, never with both or neither, unless the client left.
A client that leaves, at whatever moment, cancels its request.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Protocol, TypeVar

import msgspec

from services.domain.errors import InternalFault, InvalidRequest, ServingError
from services.gateway.edge import sequences
from services.gateway.edge.admission import Admission, BodyBudget
from services.gateway.edge.calls import Call, Envelope, check_deadline_s, check_request_id
from services.gateway.edge.dialects import DONE, ChatDialect, CompletionDialect, Dialect
from services.gateway.edge.error_table import render_error
from services.gateway.edge.exchange import Exchange, WhileClientStays
from services.gateway.edge.intake import Intake
from services.gateway.edge.json_body import parse_body
from services.gateway.edge.openai_calls import ChatBody, CompletionBody
from services.gateway.edge.sequence_text import Finish, Token
from services.gateway.edge.settings import EdgeSettings
from services.gateway.edge.tally import Tally
from services.gateway.port import Serving
from services.runtime.clock import Clock
from services.runtime.metrics import Meters

log = logging.getLogger(__name__)

B = TypeVar("B", ChatBody, CompletionBody)


class _DialectOf(Protocol):
    def __call__(self, call: Call, *, with_usage: bool) -> Dialect: ...


class ActiveIds:
    """Ids of calls in progress: one id means one call, on this gateway and behind it."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def take(self, request_id: str) -> None:
        """Begin a call.

        Raises:
            InvalidRequest: a call with this id is in progress.
        """
        if request_id in self._ids:
            raise InvalidRequest(
                message=f"a request with id {request_id!r} is still in progress", param="x-request-id"
            )
        self._ids.add(request_id)

    def give_back(self, request_id: str) -> None:
        """End a call."""
        self._ids.discard(request_id)


def new_request_id() -> str:
    """Make an id that nobody else makes: 96 random bits."""
    return secrets.token_hex(12)


class Generation:
    """Serves both APIs."""

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        serving: Serving,
        intake: Intake,
        admission: Admission,
        active_ids: ActiveIds,
        meters: Meters,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._intake = intake
        self._admission = admission
        self._active_ids = active_ids
        self._meters = meters
        self._clock = clock
        self._bodies = BodyBudget(settings.bodies_bytes_max)
        self._chat_decoder = msgspec.json.Decoder(ChatBody)
        self._completion_decoder = msgspec.json.Decoder(CompletionBody)

    async def chat(self, exchange: Exchange) -> None:
        """Serve POST /v1/chat/completions."""
        await self._serve(exchange, "chat", self._chat_decoder, self._intake.chat, ChatDialect)

    async def completion(self, exchange: Exchange) -> None:
        """Serve POST /v1/completions."""
        await self._serve(
            exchange, "completions", self._completion_decoder, self._intake.completion, CompletionDialect
        )

    async def _serve(
        self,
        exchange: Exchange,
        api: str,
        decoder: msgspec.json.Decoder[B],
        check: Callable[[B, Envelope], Awaitable[Call]],
        dialect_of: _DialectOf,
    ) -> None:
        outcome = "internal"
        try:
            await self._admitted(exchange, decoder, check, dialect_of)
            outcome = "ok"
        except ServingError as error:
            outcome = error.code
            raise
        finally:
            self._meters.count("baton_requests_total", api=api, outcome=outcome)

    async def _admitted(
        self,
        exchange: Exchange,
        decoder: msgspec.json.Decoder[B],
        check: Callable[[B, Envelope], Awaitable[Call]],
        dialect_of: _DialectOf,
    ) -> None:
        envelope = self._envelope(exchange)
        exchange.require_json()
        with self._admission.places() as places:
            body = parse_body(
                decoder,
                await exchange.read_body(
                    bytes_max=self._settings.body_bytes_max,
                    timeout_s=self._settings.body_timeout_s,
                    budget=self._bodies,
                ),
            )
            self._active_ids.take(envelope.request_id)
            try:
                async with WhileClientStays(exchange):
                    call = await check(body, envelope)
                    places.take(len(call.requests) - 1)
                    with_usage = bool(body.stream_options and body.stream_options.include_usage)
                    dialect = dialect_of(call, with_usage=with_usage)
                    if body.stream:
                        await self._stream(exchange, call, dialect, with_usage=with_usage)
                    else:
                        await self._answer(exchange, call, dialect)
            finally:
                self._active_ids.give_back(envelope.request_id)

    def _envelope(self, exchange: Exchange) -> Envelope:
        """Read what the headers say; from here on the answer carries the request's id."""
        given = exchange.header(b"x-request-id")
        request_id = new_request_id() if given is None else check_request_id(given.decode("latin-1"))
        exchange.request_id = request_id
        timeout = exchange.header(b"x-request-timeout-s")
        return Envelope(
            request_id=request_id,
            arrived_s=self._clock.now_s(),
            deadline_s=None
            if timeout is None
            else check_deadline_s(timeout.decode("latin-1"), self._settings.deadline_s_max),
        )

    async def _answer(self, exchange: Exchange, call: Call, dialect: Dialect) -> None:
        tally = Tally(call)
        texts: list[list[str]] = [[] for _ in call.requests]
        tokens: list[list[Token]] = [[] for _ in call.requests]
        finishes: list[Finish] = ["stop" for _ in call.requests]
        async with aclosing(sequences.run(call, self._serving)) as pieces:
            async for piece in pieces:
                tally.fold(piece)
                texts[piece.index].append(piece.text)
                tokens[piece.index].extend(piece.tokens)
                if piece.finish is not None:
                    finishes[piece.index] = piece.finish
        whole = dialect.whole(["".join(t) for t in texts], tokens, finishes, tally.report())
        await exchange.reply(200, whole)

    async def _stream(self, exchange: Exchange, call: Call, dialect: Dialect, *, with_usage: bool) -> None:
        """Stream a call; the answer begins with the first piece, so that earlier errors have a status."""
        tally = Tally(call)
        unfinished = len(call.requests)
        before = dialect.opening()
        try:
            async with aclosing(sequences.run(call, self._serving)) as pieces:
                async for piece in pieces:
                    tally.fold(piece)
                    event = before + dialect.event(piece)
                    unfinished -= piece.finish is not None
                    if not exchange.started:
                        await exchange.open_events()
                    if event and unfinished:
                        before = b""
                        await exchange.write(event)
                    else:
                        before = event
        except ServingError as error:
            if not exchange.started:
                raise
            await exchange.write(b"data: " + render_error(error) + b"\n\n", last=True)
            raise
        except Exception as error:
            # A bug must not look like a complete stream.
            log.exception("request %s failed", call.request_id)
            fault = InternalFault(message="an internal fault; the log of the gateway says more")
            if exchange.started:
                await exchange.write(b"data: " + render_error(fault) + b"\n\n", last=True)
            raise fault from error
        usage = dialect.usage_event(tally.report()) if with_usage else b""
        await exchange.write(before + usage + DONE, last=True)
