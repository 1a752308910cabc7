"""Demand, backlog and attainment from a Prometheus server.

Comes in: answers of its HTTP API (`/api/v1/query`, Prometheus 2 and 3). Goes out: a sight.
Invariant: every query is an instant one over the same window; one that answers nothing counts as 0, and a
server that has no gateway's metrics at all is a failure, not an idle cluster. Not here: what the counters
mean (`counting`).
"""

import asyncio
import math
import os

import httpx
import msgspec

from planner.observation import Backlog
from planner.observers import exposition as names
from planner.observers.counting import Buckets, Growth, attainment, demand
from planner.observers.port import ObservationFailed, Sight
from planner.observers.settings import PrometheusSettings
from services.domain.errors import ConfigurationInvalid
from services.domain.slo import Slo

_AGE = "time() - min(timestamp({series}))"


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


class PrometheusObserver:
    """Asks a Prometheus server."""

    def __init__(
        self, settings: PrometheusSettings, slo: Slo, *, client: httpx.AsyncClient | None = None
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: where the server is.
            slo: targets that attainment is measured by.
            client: to the server; None makes one.

        Raises:
            ConfigurationInvalid: the token's environment variable is not set.
        """
        self._settings = settings
        self._slo = slo
        headers = {}
        if settings.token_env is not None:
            token = os.environ.get(settings.token_env)
            if not token:
                raise ConfigurationInvalid(
                    key="observe.token_env", message=f"observe.token_env: {settings.token_env} is not set"
                )
            headers["Authorization"] = f"Bearer {token}"
        self._client = client or httpx.AsyncClient(
            base_url=settings.url, timeout=settings.request_timeout_s, headers=headers
        )

    async def look(self) -> Sight:
        """Look once."""
        growing = (names.ACCEPTED, names.ENDED, names.PROMPT_TOKENS, names.CACHED_TOKENS, names.OUTPUT_TOKENS)
        sums = [f"sum({self._increase(name)})" for name in growing]
        shown = (names.PROMPTS, names.TTFT, names.TPOT, names.TTFT_ALONE, names.TPOT_ALONE)
        histograms = [f"sum by (le) ({self._increase(name)})" for name in shown]
        others = (
            _AGE.format(series=self._of(names.ACCEPTED)),
            f"max({self._of('baton_queue_tasks')})",
            f"sum({self._of('baton_engine_running')})",
            f"avg by (phase) ({self._of('baton_engine_pace_ratio')})",
        )
        answers = await asyncio.gather(*(self._query(text) for text in (*sums, *histograms, *others)))
        ages, queue, running, paces = answers[len(sums) + len(histograms) :]
        if not ages:
            raise ObservationFailed(f"Prometheus has no {names.ACCEPTED}: no gateway is scraped")
        accepted, ended, prompt, cached, output = (_sum(answer) for answer in answers[: len(sums)])
        prompts, ttft, tpot, ttft_alone, tpot_alone = (
            _buckets(answer) for answer in answers[len(sums) : len(sums) + len(histograms)]
        )
        growth = Growth(
            window_s=self._settings.window_s,
            accepted=accepted,
            ended=ended,
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=output,
            prompts=prompts,
            ttft=ttft,
            tpot=tpot,
            ttft_alone=ttft_alone,
            tpot_alone=tpot_alone,
        )
        pace = {series.metric.get("phase", ""): float(series.value[1]) for series in paces}
        asked = demand(growth)
        waiting = _sum(queue)
        return Sight(
            age_s=max(0.0, _sum(ages)),
            demand=asked,
            backlog=Backlog(
                waiting_count=round(waiting),
                waiting_tokens=round(waiting * (asked.uncached_tokens if asked is not None else 0.0)),
                running_count=round(_sum(running)),
            ),
            attainment=attainment(
                growth,
                self._slo,
                prefill_pace=pace.get("prefill", 1.0),
                decode_pace=pace.get("decode", 1.0),
            ),
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    def _of(self, name: str) -> str:
        return f"{name}{{{self._settings.selector}}}" if self._settings.selector else name

    def _increase(self, name: str) -> str:
        return f"increase({self._of(name)}[{self._settings.window_s:g}s])"

    async def _query(self, text: str) -> list[_Series]:
        try:
            answer = await self._client.get("/api/v1/query", params={"query": text})
            decoded = msgspec.json.decode(answer.content, type=_Answer)
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            raise ObservationFailed(f"Prometheus: {text}: {error!r}") from None
        if decoded.status != "success" or decoded.data is None:
            raise ObservationFailed(f"Prometheus: {text}: {decoded.error or answer.status_code}")
        return decoded.data.result


def _sum(series: list[_Series]) -> float:
    values = [float(one.value[1]) for one in series]
    return sum(value for value in values if not math.isnan(value))  # a rate of nothing


def _buckets(series: list[_Series]) -> Buckets:
    return {float(one.metric["le"]): float(one.value[1]) for one in series if "le" in one.metric}
