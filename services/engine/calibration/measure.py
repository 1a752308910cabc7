"""Measures a started engine through its port: prompts, batches, handoffs.

Comes in: engines and shapes. Goes out: the time of one round each; `survey` repeats them.
Invariant: every job that is submitted has ended, or is aborted, when a call returns or is cancelled.
What is measured is what a router must foresee: prefill from submission to first token, decode between
two outputs. Of the steps of a round the lower quartile counts: not the lowest, since an output that comes
late makes the next gap short; not the median, since other work on the machine may disturb most of them.
Not here: how often, and what is made of the rounds (`survey`); starting and stopping engines.
"""

import asyncio
from collections.abc import Sequence
from random import Random

from services.domain.blocks import CacheScope, KvEvent
from services.domain.errors import EngineFailed
from services.domain.ids import RequestId, WorkerId
from services.domain.request import InferenceRequest, Sampling
from services.engine.calibration.points import DecodePoint, PrefillPoint
from services.engine.calibration.shapes import DECODE_STEPS, DecodeShape, PrefillShape
from services.engine.port import DecodeJob, Engine, EngineInfo, EngineStep, PrefillJob
from services.runtime.clock import LoopClock

PATIENCE_S = 120.0
"""Longest wait for the next output of an engine that has work."""
OPENER_TOKENS = 64
"""A prompt that keeps the engine busy while others arrive, so that they share the next step; tokens."""
_SEED = 20_260_101
"""Of the prompts: the same ones each time."""


class Subject:
    """One engine that is measured.

    Start it with `start`; from then on it must have no other work.
    """

    def __init__(self, engine: Engine, *, model: str, token_ids: range) -> None:
        """Name an engine that was not started.

        Args:
            engine: what is measured.
            model: name under which it serves.
            token_ids: ordinary tokens; prompts are drawn from them.
        """
        self.engine = engine
        self._scope = CacheScope(model=model)
        self._token_ids = token_ids
        self._random = Random(_SEED)  # noqa: S311  # repeatable prompts, nothing secret
        self._clock = LoopClock()
        self._asked = 0
        self._news = asyncio.Event()
        self._steps: list[tuple[float, EngineStep]] = []
        self._kept: dict[tuple[int, int], list[tuple[int, ...]]] = {}
        self._apart: set[PrefillShape] = set()
        self._info: EngineInfo | None = None

    @property
    def info(self) -> EngineInfo:
        """Facts of the started engine."""
        if self._info is None:
            raise EngineFailed(message="the engine was not started", worker_id=WorkerId("engine"))
        return self._info

    async def start(self) -> None:
        """Start the engine and warm it up with one prompt.

        Raises:
            EngineFailed: it did not come up.
        """
        self._info = await self.engine.start(self._hear, _ignore)
        await self.settle()

    async def settle(self) -> None:
        """Wait until all earlier work is out of the engine: what is submitted last ends last."""
        await self._first_tokens([self._request(self.prompt(1), max_tokens=1)])

    def prompt(self, tokens: int) -> tuple[int, ...]:
        """Draw a prompt that nobody has seen."""
        return tuple(self._random.choices(self._token_ids, k=tokens))

    async def prefill(self, shape: PrefillShape) -> PrefillPoint | None:
        """Compute prompts once; None when they were not computed as wanted.

        Cached tokens must have stayed cached. Several prompts must have ended in one step: then its time
        counts from the outputs before, or from the submission if there were none. Where the engine began
        with the first of them alone, an opener goes before them the next time.

        Raises:
            ServingError: the engine refused or failed.
        """
        head = await self._cached(shape.cached_tokens)
        requests = [
            self._request(head + self.prompt(shape.new_tokens), max_tokens=1)
            for _ in range(shape.prompt_count)
        ]
        opener = self._request(self.prompt(OPENER_TOKENS), max_tokens=1)
        began_s, outputs = await self._first_tokens([opener, *requests] if shape in self._apart else requests)
        ended_s, step = max(outputs, key=lambda output: len(output[1].prefilled))
        if len(step.prefilled) != shape.prompt_count:
            self._apart.add(shape)
            return None
        for prefilled in step.prefilled:
            if (
                prefilled.request_id == opener.request_id
                or prefilled.first.cached_tokens != shape.cached_tokens
            ):
                return None
        return PrefillPoint(
            prompt_count=shape.prompt_count,
            new_tokens=shape.new_tokens,
            cached_tokens=shape.cached_tokens,
            step_tokens_max=self.info.limits.step_tokens_max,
            took_s=ended_s - max((at_s for at_s, _ in outputs if at_s < ended_s), default=began_s),
        )

    async def decode(self, shape: DecodeShape) -> DecodePoint | None:
        """Decode a batch for some steps; None when it never ran as a whole.

        Raises:
            ServingError: the engine refused or failed.
        """
        prompts = self._batch(shape)
        limit = shape.output_tokens(self.info.limits.step_tokens_max)
        requests = [self._request(prompt, max_tokens=limit) for prompt in prompts]
        ids = {request.request_id for request in requests}
        written, whole, last_whole_s = 0, list[tuple[float, int]](), None
        self._steps.clear()
        try:
            for request in requests:
                self.engine.submit(DecodeJob(request=request))
            ended = False
            while len(whole) < DECODE_STEPS and not ended:
                for at_s, step in await self._next():
                    tokens = sum(len(d.token_ids) for d in step.deltas if d.request_id in ids)
                    ended = ended or any(d.finish is not None for d in step.deltas)
                    if tokens == len(step.deltas) == shape.sequence_count:
                        if last_whole_s is not None:
                            whole.append((at_s - last_whole_s, shape.computed_tokens + written))
                        last_whole_s = at_s
                    else:
                        last_whole_s = None
                    written += tokens
        finally:
            for request in requests:
                self.engine.abort(request.request_id)
        await self.settle()
        if len(whole) < DECODE_STEPS // 2:
            return None
        took_s, context_tokens = sorted(whole)[len(whole) // 4]
        return DecodePoint(sequence_count=shape.sequence_count, context_tokens=context_tokens, took_s=took_s)

    async def hand_over(self, other: "Subject", prompt_tokens: int) -> tuple[int, float]:
        """Prefill here, go on there; returns the bytes of KV and the time to the first token there, s.

        Raises:
            ServingError: an engine refused or failed.
        """
        request = self._request(self.prompt(prompt_tokens), max_tokens=2)
        _, outputs = await self._first_tokens([request])
        ticket = outputs[-1][1].prefilled[0].ticket
        if ticket is None:
            raise EngineFailed(
                message="the engine hands nothing over: it runs without disaggregation",
                worker_id=WorkerId("engine"),
            )
        took_s = await other.continued_s(DecodeJob(request=request, ticket=ticket))
        return ticket.kv_bytes, took_s

    async def continued_s(self, job: DecodeJob) -> float:
        """Time from a decode job to its first token, s; it runs to its end."""
        self._steps.clear()
        began_s, first_s = self._clock.now_s(), None
        try:
            self.engine.submit(job)
            ended = False
            while not ended:
                for at_s, step in await self._next():
                    for delta in step.deltas:
                        if delta.request_id == job.request.request_id:
                            first_s = at_s if first_s is None else first_s
                            ended = ended or delta.finish is not None
        finally:
            self.engine.abort(job.request.request_id)
        return (first_s or self._clock.now_s()) - began_s

    async def _cached(self, tokens: int) -> tuple[int, ...]:
        """Make sure that a prefix of this length is cached; the same one each time."""
        if not tokens:
            return ()
        head = self._keep((1, tokens))[0]
        await self._first_tokens([self._request(head + self.prompt(1), max_tokens=1)])
        return head

    def _batch(self, shape: DecodeShape) -> list[tuple[int, ...]]:
        """Prompts of a batch: the same each round, so that their KV may still be cached."""
        return self._keep((shape.sequence_count, shape.prompt_tokens))

    def _keep(self, key: tuple[int, int]) -> list[tuple[int, ...]]:
        if key not in self._kept:
            self._kept[key] = [self.prompt(key[1]) for _ in range(key[0])]
        return self._kept[key]

    async def _first_tokens(
        self, requests: Sequence[InferenceRequest]
    ) -> tuple[float, list[tuple[float, EngineStep]]]:
        """Prefill prompts; returns when that began and the outputs that brought first tokens."""
        self._steps.clear()
        left = {request.request_id for request in requests}
        outputs: list[tuple[float, EngineStep]] = []
        began_s = self._clock.now_s()
        try:
            for request in requests:
                self.engine.submit(PrefillJob(request=request))
            while left:
                for at_s, step in await self._next():
                    ended = {p.request_id for p in step.prefilled} & left
                    if ended:
                        outputs.append((at_s, step))
                        left -= ended
        finally:
            for request_id in left:
                self.engine.abort(request_id)
        return began_s, outputs

    async def _next(self) -> list[tuple[float, EngineStep]]:
        """Wait for outputs that were not looked at.

        Raises:
            ServingError: one of them is an error.
            EngineFailed: none came for long.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self._steps:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise EngineFailed(
                message=f"the engine gave no output for {PATIENCE_S:.0f} s", worker_id=WorkerId("engine")
            ) from None
        seen, self._steps = self._steps, []
        for _, step in seen:
            for delta in (*step.deltas, *(p.first for p in step.prefilled)):
                if delta.error is not None:
                    raise delta.error
        return seen

    def _hear(self, step: EngineStep) -> None:
        self._steps.append((self._clock.now_s(), step))
        self._news.set()

    def _request(self, prompt: tuple[int, ...], *, max_tokens: int) -> InferenceRequest:
        self._asked += 1
        return InferenceRequest(
            request_id=RequestId(f"calibration-{self._asked}"),
            scope=self._scope,
            prompt_token_ids=prompt,
            sampling=Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
        )


def _ignore(_: tuple[KvEvent, ...]) -> None:
    """Caches are not followed: each first token says what was reused."""
