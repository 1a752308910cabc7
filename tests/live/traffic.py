"""Steady traffic of streamed requests, each held against the answer of an undisturbed run.

Comes in: gateways, questions. Goes out: one verdict per request: exact, wrong, or failed.
Invariant: every request that was begun is judged; its stream must end in exactly one terminal event.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import grpc
import httpx
import msgspec

from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceStub
from tests.live.cluster import DEADLINE_S, RunningCluster
from tests.live.outputs import MODEL, SAMPLINGS

VOCABULARY = 2048
"""Token ids of the shipped model."""
TURN = 20
"""Questions of a client at one gateway before it goes to the next."""
AUTO, LOCAL, REMOTE = pb.PREFILL_PATH_UNSPECIFIED, pb.PREFILL_PATH_LOCAL, pb.PREFILL_PATH_REMOTE
PATHS = {AUTO: "auto", LOCAL: "local", REMOTE: "remote"}
REMOTE_EVERY = 2
"""Of so many requests one asks for remote prefill: a light load alone hardly ever gives a reason for it."""
CACHES = 5
"""Cache salts in turn: the same prompt is sometimes cached and sometimes not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt and how its answer is chosen."""

    token_ids: tuple[int, ...]
    sampling: str
    output_tokens: int

    def options(self) -> pb.SamplingOptions:
        """How tokens are chosen."""
        options = pb.SamplingOptions()
        options.CopyFrom(SAMPLINGS[self.sampling])
        options.max_tokens = self.output_tokens
        options.ignore_eos = True
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, as far as it came.

    Attributes:
        token_ids: over gRPC; empty over HTTP, which sends text.
        text: all of it.
        endings: terminal events: finish reasons, or an error.
    """

    token_ids: tuple[int, ...]
    text: str
    endings: tuple[str, ...]

    def matches(self, truth: "Answer") -> bool:
        """Whether it ended once, in order, with the same tokens."""
        same = self.token_ids == truth.token_ids or not self.token_ids
        return self.endings == ("length",) and same and self.text == truth.text


Truth = Mapping[Question, Answer]


def make_questions(count: int, *, output_tokens: tuple[int, int] = (24, 64)) -> tuple[Question, ...]:
    """Make questions of many lengths; greedy, seeded and penalised in turn."""
    random = Random(17)
    return tuple(
        Question(
            token_ids=tuple(
                random.randrange(300, VOCABULARY) for _ in range(random.choice((20, 64, 150, 320, 700)))
            ),
            sampling=("greedy", "seeded", "greedy", "penalised")[index % 4],
            output_tokens=random.randint(*output_tokens),
        )
        for index in range(count)
    )


def plain_channel(gateway: RunningCluster) -> grpc.aio.Channel:
    """Make a channel that tries nothing twice: what fails is to be seen."""
    return grpc.aio.insecure_channel(gateway.grpc_address, options=[("grpc.enable_retries", 0)])


async def stream_grpc(
    channel: grpc.aio.Channel,
    question: Question,
    salt: str,
    path: pb.PrefillPath.ValueType = pb.PREFILL_PATH_UNSPECIFIED,
) -> Answer:
    """Ask over gRPC."""
    ids: list[int] = []
    text, endings = "", []
    try:
        call = InferenceServiceStub(channel).GenerateStream(
            pb.GenerateRequest(
                model=MODEL,
                token_ids=pb.TokenIds(ids=question.token_ids),
                sampling=question.options(),
                cache_salt=salt,
                prefill_path=path,
            ),
            timeout=DEADLINE_S,
        )
        async for event in call:
            if event.WhichOneof("event") == "finished":
                endings.append(event.finished.finish_reason)
            else:
                ids += event.piece.token_ids
                text += event.piece.text
    except grpc.aio.AioRpcError as error:
        endings.append(f"{error.code().name}: {error.details()}")
    return Answer(token_ids=tuple(ids), text=text, endings=tuple(endings))


class _Choice(msgspec.Struct):
    text: str
    finish_reason: str | None = None


class _Failure(msgspec.Struct):
    message: str


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Failure | None = None


async def stream_http(
    http: httpx.AsyncClient, question: Question, salt: str, path: pb.PrefillPath.ValueType = AUTO
) -> Answer:
    """Ask over HTTP, as the OpenAI API streams."""
    options = question.options()
    asked = {
        "model": MODEL,
        "prompt": list(question.token_ids),
        "max_tokens": question.output_tokens,
        "temperature": options.temperature,
        "ignore_eos": True,
        "stream": True,
        "cache_salt": salt,
        "baton": {"prefill": PATHS[path]},
    }
    for name in ("seed", "top_p", "frequency_penalty", "presence_penalty"):
        if options.HasField(name):
            asked[name] = getattr(options, name)
    text, endings, done = "", [], False
    try:
        async with http.stream("POST", "/v1/completions", json=asked) as response:
            if response.status_code != httpx.codes.OK:
                told = (await response.aread()).decode(errors="replace")
                return Answer(token_ids=(), text="", endings=(f"{response.status_code}: {told}",))
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    done = True
                    continue
                chunk = msgspec.json.decode(line[6:], type=_Chunk)
                if chunk.error is not None:
                    endings.append(chunk.error.message)
                for choice in chunk.choices:
                    text += choice.text
                    if choice.finish_reason is not None:
                        endings.append(choice.finish_reason)
    except httpx.HTTPError as error:
        endings.append(repr(error))
    if not done:
        endings.append("no end of the stream")
    return Answer(token_ids=(), text=text, endings=tuple(endings))


async def learn(cluster: RunningCluster, questions: Sequence[Question]) -> Truth:
    """Have every question answered once, undisturbed and without a cached prefix."""
    async with plain_channel(cluster) as channel:
        asked = [stream_grpc(channel, q, f"truth {i}") for i, q in enumerate(questions)]
        answers = await asyncio.gather(*asked)
    truth = dict(zip(questions, answers, strict=True))
    assert all(answer.endings == ("length",) for answer in answers), answers
    assert all(len(truth[q].token_ids) == q.output_tokens for q in questions)
    return truth


@dataclass(slots=True)
class Verdicts:
    """What became of the requests of one stretch of traffic."""

    exact: int = 0
    failed: list[str] = field(default_factory=list)
    excused: int = 0
    """Failed at a gateway that was killed meanwhile: nobody else has the client's connection."""

    @property
    def ended(self) -> int:
        """Requests that are over."""
        return self.exact + len(self.failed) + self.excused


class Traffic:
    """Clients that ask one question after another until they are told to stop."""

    def __init__(
        self, gateways: Sequence[RunningCluster], truth: Truth, *, salt: str, pause_s: float = 0.0
    ) -> None:
        """Put it together; nobody asks yet.

        Args:
            gateways: that are asked.
            truth: what is asked, and what must come.
            salt: of the caches.
            pause_s: of a client between an answer and its next question, seconds.
        """
        self._gateways = gateways
        self._truth = truth
        self._salt = salt
        self._pause_s = pause_s
        self._numbers = itertools.count()
        self._questions = itertools.cycle(truth)
        self._stopped = asyncio.Event()
        self._change = asyncio.Condition()
        self._killed: set[int] = set()
        self.verdicts = Verdicts()

    def excuse(self, index: int) -> None:
        """Say that a gateway is about to be killed: what it holds may fail, and its clients go elsewhere."""
        self._killed.add(index)
        assert len(self._killed) < len(self._gateways), "nobody is left to ask"

    def welcome(self, index: int) -> None:
        """Say that a gateway is back: clients may go to it again."""
        self._killed.discard(index)

    async def client(self, index: int) -> None:
        """Ask one question after another, some at each gateway in turn."""
        while not self._stopped.is_set():
            index = (index + 1) % len(self._gateways)
            if index in self._killed:
                continue
            gateway = self._gateways[index]
            async with plain_channel(gateway) as channel, gateway.http() as http:
                for _ in range(TURN):
                    if not await self._ask(index, channel, http) or self._stopped.is_set():
                        break
                    await self._pause()

    async def _pause(self) -> None:
        if self._pause_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._stopped.wait()

    async def _ask(self, index: int, channel: grpc.aio.Channel, http: httpx.AsyncClient) -> bool:
        """Ask over HTTP or gRPC in turn; False when the gateway was killed before the answer was whole."""
        number = next(self._numbers)
        question = next(self._questions)
        salt = f"{self._salt} {number % CACHES}"
        path = AUTO if number % REMOTE_EVERY else REMOTE
        if number // len(self._truth) % 2:
            answer = await stream_grpc(channel, question, salt, path)
        else:
            answer = await stream_http(http, question, salt, path)
        truth = self._truth[question]
        if answer.matches(truth):
            self.verdicts.exact += 1
        elif index in self._killed:
            self.verdicts.excused += 1
        else:
            name = (
                f"request {number} ({question.sampling}, {len(question.token_ids)} tokens, gateway {index})"
            )
            self.verdicts.failed.append(f"{name}: {answer} instead of {truth}")
        async with self._change:
            self._change.notify_all()
        return index not in self._killed

    async def more(self, count: int) -> None:
        """Wait until so many more requests are over."""
        goal = self.verdicts.ended + count
        async with asyncio.timeout(DEADLINE_S), self._change:
            await self._change.wait_for(lambda: self.verdicts.ended >= goal)

    def stop(self) -> None:
        """Begin no further request."""
        self._stopped.set()


@asynccontextmanager
async def traffic(
    gateways: Sequence[RunningCluster],
    truth: Truth,
    *,
    salt: str,
    clients: int,
    requests_min: int = 0,
    pause_s: float = 0.0,
) -> AsyncIterator[Traffic]:
    """Keep traffic up while the body runs; at the end all requests are over and all are exact.

    Args:
        gateways: clients are spread over them.
        truth: what is asked, and what must come.
        salt: of the caches.
        clients: that ask at the same time.
        requests_min: of which there must have been so many at the end.
        pause_s: of a client between an answer and its next question, seconds.
    """
    running = Traffic(gateways, truth, salt=salt, pause_s=pause_s)
    tasks = [asyncio.ensure_future(running.client(i % len(gateways))) for i in range(clients)]
    try:
        yield running
        await running.more(max(1, requests_min - running.verdicts.ended))
        running.stop()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    assert not running.verdicts.failed, "\n".join(running.verdicts.failed[:10])
