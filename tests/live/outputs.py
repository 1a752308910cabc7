"""What is asked for token-exactness, and what one aggregated engine answered.

Comes in: a cluster. Goes out: answers by prompt and by way of sampling.
Invariant: prompts are the same in every run; only where and when they are computed differs.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import msgspec
from tokenizers import Tokenizer

from services.tinymodel import model_path
from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceStub
from tests.live.cluster import DEADLINE_S, RunningCluster

if TYPE_CHECKING:
    from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceAsyncStub

MODEL = "baton-tiny"
BLOCK_TOKENS = 32
"""Tokens per KV block: `VllmSettings.block_size_tokens`."""
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 129, 320, 1024, 1500, 2047)
RANDOM_COUNT = 28
OUTPUT_TOKENS, LONG_OUTPUT_TOKENS = 12, 40

_TEXT = (
    "A relay runner hands the baton to the next one without stopping. The first reads the whole road, "
    "the second runs it step by step. When the road is short one runner is enough; when many wait at the "
    "start, it is better to let one read and another run. Nobody looks back, and the baton never falls. "
)


class _Vocabulary(msgspec.Struct):
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt.

    Attributes:
        token_ids: shape [prompt_tokens].
        shared_tokens: length of the prefix it has in common with an earlier prompt.
        output_tokens: how many to generate.
        ignore_eos: whether to go on behind the model's own end.
    """

    token_ids: tuple[int, ...]
    shared_tokens: int = 0
    output_tokens: int = OUTPUT_TOKENS
    ignore_eos: bool = True

    def __len__(self) -> int:
        """Length in tokens."""
        return len(self.token_ids)


def make_prompts() -> tuple[Prompt, ...]:
    """Make the prompts: fixed and random lengths, text and noise, and families that share a prefix."""
    random = Random(5)
    size = msgspec.json.decode((model_path() / "config.json").read_bytes(), type=_Vocabulary).vocab_size
    text = Tokenizer.from_file(str(model_path() / "tokenizer.json")).encode(_TEXT * 40).ids
    prompts = []
    for index, length in enumerate([*LENGTHS, *(random.randint(3, 700) for _ in range(RANDOM_COUNT))]):
        start = random.randrange(300)
        noise = [random.randrange(size // 2, size) for _ in range(length)]
        # Noise first, so that no two prompts begin alike; then words, so that the model has something to say.
        ids = noise if index % 2 else [*noise[:24], *text[start : start + length]][:length]
        prompts.append(
            Prompt(
                token_ids=tuple(ids),
                output_tokens=OUTPUT_TOKENS if index % 4 else LONG_OUTPUT_TOKENS,
                ignore_eos=index % 5 > 0,
            )
        )
    root = next(p for p in prompts if len(p) == 1024)
    for shared, more in ((32, 1), (64, 31), (65, 31), (96, 32), (320, 100), (511, 1), (960, 64), (1023, 0)):
        tail = tuple(random.randrange(size // 2, size) for _ in range(more))
        prompts.append(Prompt(token_ids=root.token_ids[:shared] + tail, shared_tokens=shared))
    return tuple(prompts)


PROMPTS = make_prompts()

SAMPLINGS: Mapping[str, pb.SamplingOptions] = {
    "greedy": pb.SamplingOptions(temperature=0),
    "seeded": pb.SamplingOptions(temperature=2, top_p=0.99, seed=1234),
    "penalised": pb.SamplingOptions(temperature=0, frequency_penalty=2, presence_penalty=2),
}
"""Ways to choose tokens that must give the same ones everywhere."""

EARLY = frozenset({"greedy"})
"""Those whose first token may come from the prefill worker; the others begin in decode."""

Reference = dict[tuple[Prompt, str], pb.GenerateResponse]
"""Answers by prompt and name of sampling."""


async def ask(
    stub: "InferenceServiceAsyncStub",
    prompt: Prompt,
    sampling: str,
    *,
    path: pb.PrefillPath.ValueType = pb.PREFILL_PATH_UNSPECIFIED,
    salt: str = "",
    logprobs: int | None = None,
) -> pb.GenerateResponse:
    """Generate behind one prompt."""
    options = pb.SamplingOptions()
    options.CopyFrom(SAMPLINGS[sampling])
    options.max_tokens = prompt.output_tokens
    options.ignore_eos = prompt.ignore_eos
    if logprobs is not None:
        options.logprobs = logprobs
    return await stub.Generate(
        pb.GenerateRequest(
            model=MODEL,
            token_ids=pb.TokenIds(ids=prompt.token_ids),
            sampling=options,
            prefill_path=path,
            cache_salt=salt,
        ),
        timeout=DEADLINE_S,
    )


def record_reference(cluster: RunningCluster) -> Reference:
    """Ask for everything, one request at a time, each without a cached prefix."""

    async def record() -> Reference:
        answers: Reference = {}
        async with cluster.grpc() as channel:
            stub = InferenceServiceStub(channel)
            for sampling in SAMPLINGS:
                for index, prompt in enumerate(PROMPTS):
                    answer = await ask(stub, prompt, sampling, salt=f"{sampling} {index}", logprobs=3)
                    assert answer.usage.cached_tokens == 0
                    answers[prompt, sampling] = answer
        return answers

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(record())
