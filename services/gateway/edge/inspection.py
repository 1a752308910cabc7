"""Everything that is no generation: models, health, metrics, and Baton's own view of requests.

Comes in: HTTP exchanges. Goes out: JSON (and Prometheus text).
Invariant: none of these starts work behind the edge.
"""

import time

import msgspec

from services.domain.errors import NotReady, UnknownModel
from services.domain.ids import RequestId
from services.gateway.edge.admission import Admission
from services.gateway.edge.exchange import Exchange, HttpProblem
from services.gateway.edge.openai_replies import ModelCard, ModelList
from services.gateway.port import RequestRecord, ServedModel, Serving
from services.runtime.metrics import Meters


class Health(msgspec.Struct, frozen=True):
    """Answer of the health routes."""

    status: str


class RecordList(msgspec.Struct, frozen=True):
    """Answer of GET /baton/v1/requests."""

    data: list[RequestRecord]


class Inspection:
    """Serves all that looks and does not touch."""

    def __init__(self, *, serving: Serving, admission: Admission, meters: Meters, openapi: bytes) -> None:
        self._serving = serving
        self._admission = admission
        self._meters = meters
        self._openapi = openapi
        self._created = int(time.time())

    async def models(self, exchange: Exchange) -> None:
        """Serve GET /v1/models."""
        await exchange.reply_struct(ModelList([self._card(m) for m in self._serving.models()]))

    async def model(self, exchange: Exchange) -> None:
        """Serve GET /v1/models/{model}."""
        name: str = exchange.scope["path_params"]["model"]
        found = next((m for m in self._serving.models() if m.name == name), None)
        if found is None:
            raise UnknownModel(message=f"model {name!r} is not served here", model=name)
        await exchange.reply_struct(self._card(found))

    def _card(self, model: ServedModel) -> ModelCard:
        return ModelCard(model.name, self._created, model.context_tokens_max)

    async def live(self, exchange: Exchange) -> None:
        """Serve GET /health/live: the process answers."""
        await exchange.reply_struct(Health("live"))

    async def ready(self, exchange: Exchange) -> None:
        """Serve GET /health/ready: whether new requests can be served."""
        reason = "shutting down" if self._admission.draining else self._serving.ready()
        if reason is not None:
            raise NotReady(message=reason, retry_after_s=1.0)
        await exchange.reply_struct(Health("ready"))

    async def metrics(self, exchange: Exchange) -> None:
        """Serve GET /metrics, for Prometheus."""
        await exchange.reply(200, self._meters.render(), kind=b"text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, exchange: Exchange) -> None:
        """Serve GET /openapi.json."""
        await exchange.reply(200, self._openapi)

    async def requests(self, exchange: Exchange) -> None:
        """Serve GET /baton/v1/requests: records still kept, newest first."""
        await exchange.reply_struct(RecordList(list(self._serving.recent())))

    async def request(self, exchange: Exchange) -> None:
        """Serve GET /baton/v1/requests/{request_id}: all that is known of one request."""
        request_id = RequestId(exchange.scope["path_params"]["request_id"])
        record = self._serving.record(request_id)
        if record is None:
            raise HttpProblem(404, "request_not_found", f"no record of request {request_id!r} is kept here")
        await exchange.reply_struct(record)

    async def cluster(self, exchange: Exchange) -> None:
        """Serve GET /baton/v1/cluster: the cluster as this gateway sees it."""
        await exchange.reply_struct(self._serving.cluster())
