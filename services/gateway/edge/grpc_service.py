"""The public gRPC service: Generate, GenerateStream, ListModels.

Comes in: gRPC calls. Goes out: messages, or a status of the one error table whose trailing metadata
has `baton-error-code`. Invariant: as for HTTP: a stream ends with `finished` or with an error status,
and a caller that leaves cancels its request.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, cast

import grpc

from services.domain.errors import InternalFault, ServingError
from services.gateway.edge import sequences
from services.gateway.edge.admission import Admission
from services.gateway.edge.calls import Call, Envelope, check_request_id
from services.gateway.edge.error_table import retry_after_s, row_of
from services.gateway.edge.generation import ActiveIds, new_request_id
from services.gateway.edge.grpc_bodies import from_proto, report_tokens, report_usage
from services.gateway.edge.intake import Intake
from services.gateway.edge.openai_calls import ChatBody
from services.gateway.edge.sequence_text import Finish, Token
from services.gateway.edge.settings import EdgeSettings
from services.gateway.edge.tally import Tally
from services.gateway.port import Serving
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1 import inference_pb2_grpc

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

ERROR_CODE_KEY = "baton-error-code"
REQUEST_ID_KEY = "x-request-id"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""How long a client with a retry policy waits before its next try (gRPC proposal A6, server pushback)."""


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Serves `baton.v1.InferenceService`."""

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
        self.active_count = 0

    async def Generate(  # noqa: N802 - named by the proto
        self, request: pb.GenerateRequest, context: Context
    ) -> pb.GenerateResponse:
        """Answer once all tokens are there."""
        async with self._call(request, context) as call:
            tally = Tally(call)
            texts: list[str] = []
            tokens: list[Token] = []
            finish: Finish = "stop"
            async with aclosing(sequences.run(call, self._serving)) as pieces:
                async for piece in pieces:
                    tally.fold(piece)
                    texts.append(piece.text)
                    tokens.extend(piece.tokens)
                    finish = piece.finish or finish
            return pb.GenerateResponse(
                request_id=call.request_id,
                model=call.model,
                text="".join(texts),
                token_ids=[t.token_id for t in tokens],
                finish_reason=finish,
                usage=report_usage(call.prompt_tokens, tally),
                logprobs=report_tokens(tokens, call.assets.vocabulary),
            )

    async def GenerateStream(  # noqa: N802 - named by the proto
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        """Stream tokens as they come."""
        async with self._call(request, context) as call:
            tally = Tally(call)
            finish: Finish = "stop"
            async with aclosing(sequences.run(call, self._serving)) as pieces:
                async for piece in pieces:
                    tally.fold(piece)
                    finish = piece.finish or finish
                    if piece.text or piece.tokens:
                        yield pb.GenerateStreamResponse(
                            request_id=call.request_id,
                            piece=pb.GenerateStreamResponse.Piece(
                                text=piece.text,
                                token_ids=[t.token_id for t in piece.tokens],
                                logprobs=report_tokens(piece.tokens, call.assets.vocabulary),
                            ),
                        )
            yield pb.GenerateStreamResponse(
                request_id=call.request_id,
                finished=pb.GenerateStreamResponse.Finished(
                    finish_reason=finish, usage=report_usage(call.prompt_tokens, tally)
                ),
            )

    async def ListModels(  # noqa: N802 - named by the proto
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """List served models."""
        return pb.ListModelsResponse(
            models=[
                pb.Model(name=m.name, context_tokens_max=m.context_tokens_max) for m in self._serving.models()
            ]
        )

    @asynccontextmanager
    async def _call(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[Call]:
        """Admit and check a call; turn what goes wrong with it into a status."""
        outcome = "client_gone"
        self.active_count += 1
        try:
            envelope = self._envelope(context)
            await context.send_initial_metadata(((REQUEST_ID_KEY, envelope.request_id),))
            with self._admission.places():
                self._active_ids.take(envelope.request_id)
                try:
                    body = from_proto(request)
                    if isinstance(body, ChatBody):
                        call = await self._intake.chat(body, envelope, reports_tokens=True)
                    else:
                        call = await self._intake.completion(body, envelope, reports_tokens=True)
                    yield call
                finally:
                    self._active_ids.give_back(envelope.request_id)
            outcome = "ok"
        except ServingError as error:
            outcome = error.code
            await _abort(context, error)
        except Exception:
            outcome = "internal"
            log.exception("a gRPC call failed")
            fault = InternalFault(message="an internal fault; the log of the gateway says more")
            await _abort(context, fault)
        finally:
            self.active_count -= 1
            self._meters.count("baton_requests_total", api="grpc", outcome=outcome)

    def _envelope(self, context: Context) -> Envelope:
        given = next((v for k, v in context.invocation_metadata() or () if k == REQUEST_ID_KEY), None)
        left_s = cast("float | None", context.time_remaining())  # None without a deadline, unlike its type
        return Envelope(
            request_id=new_request_id() if given is None else check_request_id(str(given)),
            arrived_s=self._clock.now_s(),
            deadline_s=None if left_s is None else min(left_s, self._settings.deadline_s_max),
        )


async def _abort(context: Context, error: ServingError) -> NoReturn:
    trailing = [(ERROR_CODE_KEY, error.code)]
    after = retry_after_s(error)
    if after is not None:
        trailing += [("retry-after", str(after)), (PUSHBACK_KEY, str(after * 1000))]
    await context.abort(row_of(error).grpc_code, error.message, tuple(trailing))
