"""The routes of the HTTP API, and what becomes of errors.

Comes in: ASGI calls. Goes out: an answer to each, with an OpenAI error body when it is none of success.
Invariant: no exception reaches the server; one that nobody foresaw is logged and answered 500.
"""

import logging
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from services.domain.errors import ClientGone, InternalFault, ServingError
from services.gateway.edge.exchange import Exchange, HttpProblem
from services.gateway.edge.generation import Generation
from services.gateway.edge.inspection import Inspection

log = logging.getLogger(__name__)

Handler = Callable[[Exchange], Awaitable[None]]


class _Endpoint:
    """One handler as an ASGI application."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self._handler(exchange)
        except ClientGone:
            return
        except HttpProblem as problem:
            if not exchange.started:
                await exchange.reply_problem(problem)
        except ServingError as error:
            if not exchange.started:
                await exchange.reply_error(error)
        except Exception:
            if exchange.started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await exchange.reply_error(
                InternalFault(message="an internal fault; the log of the gateway says more")
            )


def build_app(generation: Generation, inspection: Inspection) -> ASGIApp:
    """Put the routes together."""
    posts: dict[str, Handler] = {
        "/v1/chat/completions": generation.chat,
        "/v1/completions": generation.completion,
    }
    gets: dict[str, Handler] = {
        "/v1/models": inspection.models,
        "/v1/models/{model:path}": inspection.model,
        "/openapi.json": inspection.openapi,
        "/baton/v1/requests": inspection.requests,
        "/baton/v1/requests/{request_id}": inspection.request,
    }
    return _routed(posts, gets | _watched(inspection))


def build_watch_app(inspection: Inspection) -> ASGIApp:
    """Put those routes together that tell of the gateway and its cluster, and of no request."""
    return _routed({}, _watched(inspection))


def _watched(inspection: Inspection) -> dict[str, Handler]:
    return {
        "/health/live": inspection.live,
        "/health/ready": inspection.ready,
        "/metrics": inspection.metrics,
        "/baton/v1/cluster": inspection.cluster,
    }


def _routed(posts: dict[str, Handler], gets: dict[str, Handler]) -> ASGIApp:
    routes = [Route(path, _Endpoint(handler), methods=["POST"]) for path, handler in posts.items()]
    routes += [Route(path, _Endpoint(handler), methods=["GET"]) for path, handler in gets.items()]
    router = Router(routes, redirect_slashes=False, default=_Endpoint(_unknown_path))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = router  # tells starlette to raise for a wrong method rather than answer in text
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            await _wrong_method(Exchange(scope, receive, send), error)

    return app


async def _unknown_path(exchange: Exchange) -> None:
    path = exchange.scope["path"]
    raise HttpProblem(404, "unknown_path", f"there is no {path!r} here; GET /openapi.json lists all paths")


async def _wrong_method(exchange: Exchange, error: HTTPException) -> None:
    allowed = (error.headers or {}).get("Allow", "")
    method, path = exchange.scope["method"], exchange.scope["path"]
    await exchange.reply_problem(
        HttpProblem(
            error.status_code,
            "method_not_allowed",
            f"{method} is not served at {path!r}; use {allowed}",
            [(b"allow", allowed.encode())],
        )
    )
