"""Handing a prompt's KV over changes no token: the cluster writes what one aggregated engine writes."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest

from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceStub
from tests.live.cluster import RunningCluster, fetch_record
from tests.live.outputs import BLOCK_TOKENS, EARLY, PROMPTS, SAMPLINGS, Prompt, Reference, ask

if TYPE_CHECKING:
    from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceAsyncStub

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

PATHS = {"local": pb.PREFILL_PATH_LOCAL, "remote": pb.PREFILL_PATH_REMOTE}
AT_ONCE = 16
ALONE_EVERY = 5
LOGPROB_TOLERANCE = 2e-3
"""float32 sums in another order; measured differences are below a tenth of this."""


class Examiner:
    """Asks the cluster and holds its answers against the reference."""

    def __init__(
        self, stub: "InferenceServiceAsyncStub", http: httpx.AsyncClient, reference: Reference
    ) -> None:
        self._stub = stub
        self._http = http
        self._reference = reference
        self._places = asyncio.Semaphore(AT_ONCE)
        self.wrong: list[str] = []

    async def examine(self, prompt: Prompt, sampling: str, path: str, salt: str, cached: bool | None) -> None:
        """Ask once and note every difference.

        Args:
            prompt: what is asked.
            sampling: name of the sampling.
            path: where prefill is to happen.
            salt: under which KV is shared.
            cached: whether a whole block of the prompt must have been reused; None leaves it open.
        """
        async with self._places:
            answer = await ask(self._stub, prompt, sampling, path=PATHS[path], salt=salt)
        name = f"{len(prompt)} tokens, {sampling}, {path}"
        expected = self._reference[prompt, sampling]
        if answer.token_ids != expected.token_ids or answer.finish_reason != expected.finish_reason:
            self.wrong.append(f"{name}: {list(answer.token_ids)} instead of {list(expected.token_ids)}")
        if cached is not None and (answer.usage.cached_tokens > 0) != cached:
            self.wrong.append(f"{name}: {answer.usage.cached_tokens} cached tokens")
        record = await fetch_record(self._http, answer.request_id)
        handed_over = record.handoff is not None and record.handoff.ticket is not None
        went = "local" if record.handoff is None else "remote"
        if went != path or record.fallbacks:
            self.wrong.append(f"{name}: went {went}, left ways {record.fallbacks}")
        if record.first_token_early != (handed_over and sampling in EARLY):
            self.wrong.append(f"{name}: first token early: {record.first_token_early}")

    async def examine_all(
        self, cases: Sequence[tuple[Prompt, str, str]], salt: str, cached: Callable[[Prompt], bool | None]
    ) -> None:
        """Ask for many cases (prompt, sampling, path), 16 at once."""
        async with asyncio.TaskGroup() as group:
            for prompt, sampling, path in cases:
                group.create_task(self.examine(prompt, sampling, path, salt, cached(prompt)))


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "InferenceServiceAsyncStub":
    """A generated client."""
    return InferenceServiceStub(channel)


@pytest.fixture
async def examiner(
    reference: Reference, stub: "InferenceServiceAsyncStub", http: httpx.AsyncClient
) -> Examiner:
    """Whoever compares."""
    return Examiner(stub, http, reference)


def test_the_prompts_cover_what_matters() -> None:
    """At least 50 prompts, of many lengths, a third of them aligned to blocks or one token beside that."""
    assert len(set(PROMPTS)) == len(PROMPTS) >= 50
    assert len({len(p) for p in PROMPTS}) > 40
    near = [p for p in PROMPTS if len(p) % BLOCK_TOKENS in (0, 1, BLOCK_TOKENS - 1)]
    assert len(near) > len(PROMPTS) // 3
    assert {0, 1, BLOCK_TOKENS - 1} <= {len(p) % BLOCK_TOKENS for p in near}


def test_the_reference_tells_requests_apart(reference: Reference) -> None:
    """Prompts and samplings give different tokens, so that a mix-up would be seen."""
    for sampling in SAMPLINGS:
        answers = [tuple(reference[prompt, sampling].token_ids) for prompt in PROMPTS]
        assert len(set(answers)) > len(PROMPTS) // 2
    for sampling in SAMPLINGS.keys() - {"greedy"}:
        other = [p for p in PROMPTS if reference[p, sampling].token_ids != reference[p, "greedy"].token_ids]
        assert len(other) > len(PROMPTS) // 4


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_tokens_are_those_of_one_engine(examiner: Examiner, sampling: str, path: str) -> None:
    """With nothing cached, some one at a time and the rest 16 at once; then with all blocks cached."""
    salt = f"{sampling} {path}"
    roots = [p for p in PROMPTS if not p.shared_tokens]
    for prompt in roots[::ALONE_EVERY]:
        await examiner.examine(prompt, sampling, path, salt, cached=False)
    rest = [p for index, p in enumerate(roots) if index % ALONE_EVERY]
    await examiner.examine_all([(p, sampling, path) for p in rest], salt, cached=lambda _: False)
    sharing = [(p, sampling, path) for p in PROMPTS if p.shared_tokens]
    await examiner.examine_all(sharing, salt, cached=lambda p: p.shared_tokens >= BLOCK_TOKENS)
    everything = [(p, sampling, path) for p in PROMPTS]
    await examiner.examine_all(everything, salt, cached=lambda p: len(p) > BLOCK_TOKENS)
    assert not examiner.wrong, "\n".join(examiner.wrong)


async def test_tokens_do_not_depend_on_the_company(examiner: Examiner) -> None:
    """All samplings and both ways mixed, 16 at once, sharing one cache: still the same tokens."""
    cases = [(p, sampling, path) for p in PROMPTS for sampling in SAMPLINGS for path in PATHS]
    Random(11).shuffle(cases)
    await examiner.examine_all(cases, "company", cached=lambda _: None)
    assert not examiner.wrong, "\n".join(examiner.wrong)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampling", ["greedy", "seeded"])
async def test_log_probabilities_are_those_of_one_engine(
    reference: Reference, stub: "InferenceServiceAsyncStub", sampling: str, path: str
) -> None:
    """Also where the first token comes from prefill: one report per token, same tokens, same numbers."""
    for prompt in PROMPTS[:12]:
        answer = await ask(
            stub, prompt, sampling, path=PATHS[path], salt=f"logprobs {sampling} {path}", logprobs=3
        )
        expected = reference[prompt, sampling].logprobs
        assert [t.token_id for t in answer.logprobs] == [t.token_id for t in expected]
        assert [t.token_id for t in answer.logprobs] == list(answer.token_ids)
        for told, wanted in zip(answer.logprobs, expected, strict=True):
            assert told.logprob == pytest.approx(wanted.logprob, abs=LOGPROB_TOLERANCE)
            assert [a.token_id for a in told.top][:1] == [a.token_id for a in wanted.top][:1]


async def test_nothing_is_left(cluster: RunningCluster, examiner: Examiner) -> None:
    """When all are answered no worker holds a sequence, a lease or a block, and the queue is empty."""
    await examiner.examine(PROMPTS[-1], "greedy", "remote", "left", cached=None)
    await cluster.becomes_idle()
