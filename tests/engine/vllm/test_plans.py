"""What the engine is asked to run for a job, and which jobs it is spared."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from services.domain.blocks import CacheScope
from services.domain.errors import (
    ContextTooLong,
    InvalidRequest,
    ServingError,
    TicketInvalid,
    UnknownModel,
    Unsupported,
)
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest, Sampling
from services.domain.worker import WorkerLimits
from services.engine.port import DecodeJob, PrefillJob
from services.engine.vllm.plan import EnginePlan, plan_job
from services.engine.vllm.settings import SAMPLE_KEY, VllmSettings
from services.engine.vllm.ticket import PREFILL_PARAMS
from tests.engine.vllm.test_tickets import SIZE, ticket

SETTINGS = VllmSettings(model="/models/m", model_name="m", adapters={"french": "/adapters/french"})


LIMITS = WorkerLimits(
    block_size_tokens=SIZE,
    kv_blocks=100,
    kv_bytes_per_token=8,
    context_tokens_max=128,
    sequences_max=8,
    step_tokens_max=64,
    compatibility="c",
)


@dataclass(frozen=True)
class Facts:
    """A started engine."""

    limits: WorkerLimits = LIMITS
    vocabulary_tokens: int = 1000


def request(tokens: int = 70, *, max_tokens: int = 20, adapter: str = "") -> InferenceRequest:
    """A request of so many prompt tokens."""
    return InferenceRequest(
        request_id=RequestId("r"),
        scope=CacheScope(model="m", adapter=adapter),
        prompt_token_ids=tuple(range(tokens)),
        sampling=Sampling(max_tokens=max_tokens),
    )


def planned(job: PrefillJob | DecodeJob, settings: VllmSettings = SETTINGS) -> EnginePlan:
    """A plan that must exist."""
    plan = plan_job(job, settings=settings, facts=Facts())
    assert isinstance(plan, EnginePlan), plan
    return plan


def test_prefill_asks_for_one_token_and_a_lease() -> None:
    """The whole prompt is read, one token sampled, the blocks kept, and a sample of them fingerprinted."""
    plan = planned(PrefillJob(request=request()))
    assert plan == EnginePlan(
        prompt_token_ids=tuple(range(70)),
        max_tokens=1,
        connector={**PREFILL_PARAMS, SAMPLE_KEY: [0, 1, 2]},
        keeps_blocks=True,
    )


def test_without_checks_no_block_is_fingerprinted() -> None:
    """`kv_check_frac: 0` asks for no sample."""
    plan = planned(PrefillJob(request=request()), msgspec.structs.replace(SETTINGS, kv_check_frac=0.0))
    assert plan.connector == {**PREFILL_PARAMS, SAMPLE_KEY: []}


@pytest.mark.parametrize(
    "last", [request(max_tokens=1), request(127, max_tokens=9)], ids=["asked", "context"]
)
def test_prefill_of_the_last_token_keeps_nothing(last: InferenceRequest) -> None:
    """When the first token is the last by any limit, nobody will pull and no lease is opened."""
    plan = planned(PrefillJob(request=last))
    assert plan.connector is None
    assert not plan.keeps_blocks


def test_emitted_tokens_extend_the_prompt_and_count() -> None:
    """Generation continues behind them, with what is left of max_tokens."""
    plan = planned(DecodeJob(request=request(), emitted_token_ids=(5, 6, 7)))
    assert plan.prompt_token_ids[-4:] == (69, 5, 6, 7)
    assert (plan.max_tokens, plan.emitted_count, plan.connector) == (17, 3, None)


def test_ticket_becomes_parameters_of_the_longer_prompt() -> None:
    """With the first token emitted, a block-aligned prompt gets its filler block."""
    job = DecodeJob(request=request(64), ticket=ticket(64), emitted_token_ids=(9,))
    connector = planned(job).connector
    assert connector is not None
    assert connector["remote_block_ids"] == [[7, 8, 0]]


def test_output_never_leaves_the_context() -> None:
    """max_tokens is cut to what the context holds."""
    assert planned(DecodeJob(request=request(100, max_tokens=500))).max_tokens == 28


def with_sampling(change: Callable[[InferenceRequest], InferenceRequest]) -> DecodeJob:
    """A decode job of a changed request."""
    return DecodeJob(request=change(request()))


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        (with_sampling(lambda r: replace(r, scope=CacheScope(model="other"))), UnknownModel),
        (with_sampling(lambda r: replace(r, scope=CacheScope(model="m", adapter="dutch"))), UnknownModel),
        (with_sampling(lambda r: replace(r, prompt_token_ids=())), InvalidRequest),
        (with_sampling(lambda r: replace(r, prompt_token_ids=(3, 1000))), InvalidRequest),
        (with_sampling(lambda r: replace(r, prompt_token_ids=(3, -1))), InvalidRequest),
        (with_sampling(lambda r: replace(r, sampling=Sampling(max_tokens=2, json_schema="{}"))), Unsupported),
        (DecodeJob(request=request(128)), ContextTooLong),
        (DecodeJob(request=request(126), emitted_token_ids=(1, 2)), ContextTooLong),
        (DecodeJob(request=request(max_tokens=2), emitted_token_ids=(1, 2)), InvalidRequest),
        (DecodeJob(request=request(70), ticket=ticket(71)), TicketInvalid),
        (DecodeJob(request=request(70), ticket=ticket(70), emitted_token_ids=(1, 2)), TicketInvalid),
    ],
)
def test_what_the_engine_could_not_survive_is_refused(job: DecodeJob, kind: type[ServingError]) -> None:
    """Each refusal is the error that the job ends with."""
    assert isinstance(plan_job(job, settings=SETTINGS, facts=Facts()), kind)


def test_known_adapter_is_planned() -> None:
    """An adapter of the settings is served."""
    assert planned(DecodeJob(request=request(adapter="french"))).max_tokens == 20


def test_engine_without_connector_hands_nothing_over() -> None:
    """It refuses prefill jobs and tickets, and decodes."""
    plain = VllmSettings(model="/models/m", model_name="m", disaggregation=False)
    assert isinstance(plan_job(PrefillJob(request=request()), settings=plain, facts=Facts()), Unsupported)
    pulled = DecodeJob(request=request(), ticket=ticket(70))
    assert isinstance(plan_job(pulled, settings=plain, facts=Facts()), TicketInvalid)
    assert planned(DecodeJob(request=request()), plain).connector is None
