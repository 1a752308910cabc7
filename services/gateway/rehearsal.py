"""A `Serving` that answers without a cluster: for trying clients, and for loading the edge alone.

Comes in: requests. Goes out: a deterministic run of tokens at a scripted rate.
Invariant: equal prompt and seed give equal tokens; every request ends once, and who leaves early is
counted as cancelled.
Not here: a model, a router, a worker. The words are made up, the protocol is real.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from services.domain.errors import DeadlineExceeded, Saturated, ServingError
from services.domain.handoff import prompt_digest
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest
from services.domain.stream import Delta, FinishReason, TokenLogprob
from services.domain.timeline import Mark, Timeline
from services.gateway.port import ClusterState, RequestRecord, ServedModel, ServeOptions
from services.runtime.clock import Clock, LoopClock

_REMEMBERED_MAX = 1024
"""Records and prompts kept, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How a rehearsal behaves.

    Attributes:
        token_ids: what it says, over and over, at least one; each request begins at a place of its own.
        end_token_id: written after `end_after_tokens`, as a model ends its answer; None never is.
        end_after_tokens: length of the output before the end token.
        first_token_s: time to the first token.
        token_s: time from token to token.
        concurrent_max: more requests at once are refused.
        failure: how every request fails; None lets them live.
        fail_after_tokens: output length at which they fail.
    """

    token_ids: tuple[int, ...]
    end_token_id: int | None = None
    end_after_tokens: int = 32
    first_token_s: float = 0.0
    token_s: float = 0.0
    concurrent_max: int = 4096
    failure: ServingError | None = None
    fail_after_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class _Performance:
    """One request while it runs."""

    request: InferenceRequest
    accepted_s: float
    cached_tokens: int
    output_tokens: int = 0
    first_s: float | None = None
    last_s: float | None = None
    finish: FinishReason | None = None
    error: ServingError | None = None


class Rehearsal:
    """Serves a made-up model."""

    def __init__(self, *, model: ServedModel, script: Script, clock: Clock | None = None) -> None:
        self._model = model
        self.script = script
        """May be replaced at any time; requests keep the one they began with."""
        self.not_ready_because: str | None = None
        self.active_count = 0
        self.cancelled_count = 0
        """Requests whose reader left before their end."""
        self._clock = clock or LoopClock()
        self._records: OrderedDict[RequestId, RequestRecord] = OrderedDict()
        self._digests: OrderedDict[str, None] = OrderedDict()

    def models(self) -> tuple[ServedModel, ...]:
        """Name the one model."""
        return (self._model,)

    def ready(self) -> str | None:
        """Say why it is not ready, or None."""
        return self.not_ready_because

    def record(self, request_id: RequestId) -> RequestRecord | None:
        """Say what is known of a request."""
        return self._records.get(request_id)

    def recent(self) -> tuple[RequestRecord, ...]:
        """List records, newest first."""
        return tuple(reversed(self._records.values()))

    def cluster(self) -> ClusterState:
        """Describe a cluster of nobody."""
        return ClusterState(
            workers=(), queue_waiting_count=0, active_count=self.active_count, bus_connected=False
        )

    async def generate(self, request: InferenceRequest, options: ServeOptions) -> AsyncGenerator[Delta, None]:
        """Say the script's tokens.

        Raises:
            Saturated: too many requests run.
            ServingError: the deadline passed, or the script fails, before the first token.
        """
        script = self.script
        if self.active_count >= script.concurrent_max:
            raise Saturated(message="the rehearsal is full", retry_after_s=2.0)
        run = _Performance(
            request=request,
            accepted_s=self._clock.now_s(),
            cached_tokens=self._remember(prompt_digest(request.prompt_token_ids, request.scope), request),
        )
        self.active_count += 1
        self._keep(run)
        try:
            for delta in _deltas(script, run):
                await self._pause(script.token_s if run.output_tokens else script.first_token_s, run, options)
                if script.failure is not None and run.output_tokens >= script.fail_after_tokens:
                    raise script.failure
                run.last_s = self._clock.now_s()
                run.first_s = run.first_s if run.first_s is not None else run.last_s
                run.output_tokens += 1
                run.finish = delta.finish
                yield delta
        except ServingError as error:
            run.finish, run.error = FinishReason.ERROR, error
            if not run.output_tokens:
                raise
            yield Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=error)
        finally:
            self.active_count -= 1
            if run.finish is None:
                self.cancelled_count += 1
                run.finish = FinishReason.ABORTED
            self._keep(run)

    async def _pause(self, pause_s: float, run: _Performance, options: ServeOptions) -> None:
        """Wait, but not beyond the deadline."""
        deadline_s = options.deadline_s
        if deadline_s is None:
            await asyncio.sleep(pause_s)
            return
        left_s = deadline_s - (self._clock.now_s() - run.accepted_s)
        await asyncio.sleep(max(0.0, min(pause_s, left_s)))
        if left_s <= pause_s:
            raise DeadlineExceeded(message=f"no end within {deadline_s:g} s", deadline_s=deadline_s)

    def _remember(self, digest: str, request: InferenceRequest) -> int:
        """Say how many tokens of the prompt count as cached: all but the last, once it was seen."""
        seen = digest in self._digests
        self._digests[digest] = None
        self._digests.move_to_end(digest)
        if len(self._digests) > _REMEMBERED_MAX:
            self._digests.popitem(last=False)
        return request.prompt_tokens - 1 if seen else 0

    def _keep(self, run: _Performance) -> None:
        marks = [(Mark.ACCEPTED, 0.0)]
        for mark, at_s in ((Mark.FIRST_TOKEN, run.first_s), (Mark.LAST_TOKEN, run.last_s)):
            if at_s is not None:
                marks.append((mark, at_s - run.accepted_s))
        if run.finish is not None:
            marks.append((Mark.ENDED, self._clock.now_s() - run.accepted_s))
        request_id = run.request.request_id
        self._records[request_id] = RequestRecord(
            request_id=request_id,
            model=run.request.model,
            prompt_tokens=run.request.prompt_tokens,
            output_tokens=run.output_tokens,
            cached_tokens=run.cached_tokens,
            placement=None,
            fallbacks=(),
            handoff=None,
            decode_placement=None,
            first_token_early=False,
            timeline=Timeline(marks=tuple(marks), output_tokens=run.output_tokens),
            finish=run.finish,
            error=None if run.error is None else (run.error.code, run.error.message),
        )
        if len(self._records) > _REMEMBERED_MAX:
            self._records.popitem(last=False)


def _deltas(script: Script, run: _Performance) -> Iterator[Delta]:
    """Write all deltas of one request."""
    request, sampling = run.request, run.request.sampling
    place = sum(request.prompt_token_ids) + 7 * (sampling.seed or 0)
    words = script.token_ids
    ends_itself = script.end_token_id is not None and not sampling.ignore_eos
    for i in range(sampling.max_tokens):
        token_id, finish = words[(place + i) % len(words)], None
        if ends_itself and script.end_token_id is not None and i >= script.end_after_tokens:
            token_id, finish = script.end_token_id, FinishReason.STOP
        elif token_id in sampling.stop_token_ids and i >= sampling.min_tokens:
            finish = FinishReason.STOP
        elif i + 1 == sampling.max_tokens:
            finish = FinishReason.LENGTH
        yield Delta(
            request_id=request.request_id,
            token_ids=(token_id,),
            logprobs=_logprobs(token_id, words, sampling.logprobs_count),
            finish=finish,
            cached_tokens=run.cached_tokens if i == 0 else None,
        )
        if finish is not None:
            return


def _logprobs(token_id: int, words: tuple[int, ...], count: int | None) -> tuple[TokenLogprob, ...]:
    """Make up likelihoods that halve from one alternative to the next."""
    if count is None:
        return ()
    likely = list(dict.fromkeys((token_id, *words)))[:count]
    top = tuple((i, -0.7 * (rank + 1)) for rank, i in enumerate(likely))
    return (TokenLogprob(token_id=token_id, logprob=-0.7, top=top),)
