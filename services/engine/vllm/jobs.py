"""One job inside the engine, and what vLLM's outputs mean for it.

Comes in: `RequestOutput`s of one engine step. Goes out: deltas and finished prefills.
Invariant: exactly one of a job's outputs is final; after it the job reads nothing more.
Not here: sending jobs to vLLM (`adapter`), gathering one step's outputs (`steps`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.domain.errors import EngineFailed, KvCorrupt, KvLost, ServingError
from services.domain.ids import RequestId, WorkerId
from services.domain.integrity import KvChecked
from services.domain.request import Sampling
from services.domain.stream import Delta, FinishReason, TokenLogprob
from services.engine.port import DecodeJob, PrefillJob

if TYPE_CHECKING:
    from vllm import RequestOutput


@dataclass(slots=True, kw_only=True, eq=False)
class RunningJob:
    """A job that vLLM holds.

    Attributes:
        job: as submitted.
        engine_request_id: vLLM's own id; names the lease of a prefill.
        submitted_s: by the loop's clock.
        prompt_tokens: of the prompt that vLLM was given: emitted tokens are part of it.
        keeps_blocks: whether a prefill asked for a lease.
        output_tokens: new tokens so far.
        ended: the final output went out.
        checked: whether the blocks of its pull matched, as far as devices have said; None before.
    """

    job: PrefillJob | DecodeJob
    engine_request_id: str
    submitted_s: float
    prompt_tokens: int
    keeps_blocks: bool = False
    output_tokens: int = 0
    ended: bool = False
    checked: bool | None = None

    @property
    def request_id(self) -> RequestId:
        """Id of the request."""
        return self.job.request.request_id

    @property
    def sampling(self) -> Sampling:
        """Sampling of the request."""
        return self.job.request.sampling

    @property
    def computes_prompt(self) -> bool:
        """Whether the prompt is computed here rather than pulled."""
        return isinstance(self.job, PrefillJob) or self.job.ticket is None


def read_check(running: RunningJob, *, matched: bool) -> KvChecked | None:
    """Turn what one device found of a job's pull into a result; None when another device has told it.

    Args:
        running: the job; changed in place.
        matched: whether the device's part of the blocks matched.
    """
    ticket = running.job.ticket if isinstance(running.job, DecodeJob) else None
    if ticket is None or running.checked is False or running.checked is matched:
        return None
    running.checked = matched
    return KvChecked(source=ticket.prefill_worker_id, epoch=ticket.epoch, matched=matched)


def read_output(
    running: RunningJob,
    output: "RequestOutput",
    *,
    now_s: float,
    context_tokens_max: int,
    worker_id: WorkerId,
) -> Delta:
    """Turn one output of vLLM into a delta and count its tokens.

    Args:
        running: the job; changed in place.
        output: in delta form, one completion.
        now_s: by the clock of `submitted_s`.
        context_tokens_max: of the engine.
        worker_id: who failed, if it failed without a ticket.
    """
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    finish = _finish_reason(running, completion.finish_reason, len(token_ids), context_tokens_max)
    error = _failure(running, worker_id) if finish is FinishReason.ERROR else None
    is_first = running.output_tokens == 0 and running.computes_prompt and bool(token_ids)
    running.output_tokens += len(token_ids)
    running.ended = finish is not None
    logprobs: tuple[TokenLogprob, ...] = ()
    rows = completion.logprobs
    if running.sampling.logprobs_count is not None and isinstance(rows, list) and token_ids:
        from services.engine.vllm.sampling import to_token_logprobs

        logprobs = to_token_logprobs(token_ids, rows, count=running.sampling.logprobs_count)
    return Delta(
        request_id=running.request_id,
        token_ids=() if error is not None else token_ids,
        logprobs=() if error is not None else logprobs,
        finish=finish,
        error=error,
        cached_tokens=(output.num_cached_tokens or 0) if is_first else None,
        local_prefill_s=now_s - running.submitted_s if is_first else None,
    )


def _finish_reason(
    running: RunningJob, said: str | None, new_tokens: int, context_tokens_max: int
) -> FinishReason | None:
    match said:
        case None:
            return None
        case "stop" | "repetition":
            return FinishReason.STOP
        case "abort":
            return FinishReason.ABORTED
        case "length" if isinstance(running.job, PrefillJob):
            # vLLM was asked for one token only; it is the last one only if the request says so.
            is_last = running.sampling.max_tokens == 1 or running.prompt_tokens + 1 >= context_tokens_max
            return FinishReason.LENGTH if is_last or new_tokens == 0 else None
        case "length":
            return FinishReason.LENGTH
        case _:
            return FinishReason.ERROR


def _failure(running: RunningJob, worker_id: WorkerId) -> ServingError:
    ticket = running.job.ticket if isinstance(running.job, DecodeJob) else None
    if ticket is not None and running.checked is False:
        return KvCorrupt(
            message=f"the KV blocks of worker {ticket.prefill_worker_id} arrived changed",
            worker_id=ticket.prefill_worker_id,
        )
    if ticket is not None:
        return KvLost(
            message=f"the KV blocks kept by worker {ticket.prefill_worker_id} could not be read",
            worker_id=ticket.prefill_worker_id,
        )
    return EngineFailed(message="the engine gave the request up with an internal error", worker_id=worker_id)
