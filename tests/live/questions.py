"""Questions whose answers are known, and how they are streamed: over gRPC and as the OpenAI API does.

Comes in: a gateway, a question. Goes out: what came back, as far as it came, with every ending it had.
Invariant: an error is part of the answer, never an exception; nothing is tried twice.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import grpc
import httpx
import msgspec

from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceStub
from tests.live.cluster import DEADLINE_S, RunningCluster
from tests.live.outputs import MODEL, SAMPLINGS

AUTO, LOCAL, REMOTE = pb.PREFILL_PATH_UNSPECIFIED, pb.PREFILL_PATH_LOCAL, pb.PREFILL_PATH_REMOTE
VOCABULARY = 2048
"""Token ids of the shipped model."""
PATHS = {AUTO: "auto", LOCAL: "local", REMOTE: "remote"}


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
