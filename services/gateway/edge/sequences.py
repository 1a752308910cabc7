"""The sequences of one call, run against the inner port and merged into one stream of pieces.

Comes in: a `Call`. Goes out: pieces of all its choices, as they come.
Invariant: the stream ends after each choice finished, or raises an error of the tree; whichever way
it ends, closing included, every request of the call has ended or was cancelled.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.domain.errors import InternalFault
from services.domain.request import InferenceRequest
from services.gateway.edge.calls import Call
from services.gateway.edge.sequence_text import Piece, SequenceText
from services.gateway.port import Serving
from services.runtime.tasks import Nursery


def run(call: Call, serving: Serving) -> AsyncGenerator[Piece, None]:
    """Run all sequences of a call.

    The first step raises when the call is refused. Close the generator when its pieces are no longer
    wanted: that cancels what still runs.

    Raises:
        ServingError: a sequence was refused or failed; the others are cancelled.
    """
    if len(call.requests) == 1:
        return _run_one(call, call.requests[0], 0, serving)
    return _run_all(call, serving)


async def _run_one(
    call: Call, request: InferenceRequest, index: int, serving: Serving
) -> AsyncGenerator[Piece, None]:
    sampling = request.sampling
    text = SequenceText(
        index=index,
        vocabulary=call.assets.vocabulary,
        end_token_ids=call.assets.end_token_ids.union(sampling.stop_token_ids),
        stops=call.stops,
        min_tokens=sampling.min_tokens,
        reports_tokens=call.reports_tokens,
    )
    async with aclosing(serving.generate(request, call.options)) as deltas:
        async for delta in deltas:
            piece = text.fold(delta)
            yield piece
            if piece.finish is not None:
                return
    raise InternalFault(message="a stream of tokens ended without its end")


async def _run_all(call: Call, serving: Serving) -> AsyncGenerator[Piece, None]:
    """Merge the choices; a choice waits when its reader is behind by more than one piece per choice."""
    merged: asyncio.Queue[Piece | BaseException] = asyncio.Queue(maxsize=len(call.requests))

    async def pump(index: int, request: InferenceRequest) -> None:
        try:
            async with aclosing(_run_one(call, request, index, serving)) as pieces:
                async for piece in pieces:
                    await merged.put(piece)
        except Exception as error:  # noqa: BLE001 - handed to the reader below, who raises it
            await merged.put(error)

    nursery = Nursery(f"call {call.request_id}")
    try:
        for index, request in enumerate(call.requests):
            nursery.start(pump(index, request), f"choice {index}")
        unfinished = len(call.requests)
        while unfinished:
            item = await merged.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            unfinished -= item.finish is not None
    finally:
        await nursery.close()
