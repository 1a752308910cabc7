"""How long vLLM takes for what it computes, beside what the announced model predicts for it.

Comes in: jobs as they are submitted, outputs as steps deliver them. Goes out: one span per delivery.
Invariant: a span covers only time in which the engine had something to compute; waiting for a pull, or for
work, is none. A prompt counts whole in the delivery that brings its first token: what of it was computed in
deliveries before evens out over many.
Not here: what follows from it (`services.domain.pace`).
"""

from collections.abc import Iterable

from services.domain.pace import StepSpan
from services.domain.performance import PerformanceModel, PrefillChunk
from services.engine.vllm.jobs import RunningJob


class SpanMeter:
    """Measures one engine."""

    def __init__(self, performance: PerformanceModel, *, step_tokens_max: int) -> None:
        self._performance = performance
        self._step_tokens_max = step_tokens_max
        self._began_s: float | None = None
        self._sequences = self._context_tokens = self._new_tokens = 0
        self._chunks_s = 0.0

    def submitted(self, job: RunningJob) -> None:
        """Note that a job came: an idle engine begins now, unless the job waits for a pull."""
        if self._began_s is None and job.computes_prompt:
            self._began_s = job.submitted_s

    def void(self) -> None:
        """Give the present span up: part of what is computed in it will never be seen."""
        self._began_s = None

    def brought(self, job: RunningJob, *, token_count: int, cached_tokens: int) -> None:
        """Count an output of a job, before the job reads it.

        Args:
            job: whose output.
            token_count: new tokens in it.
            cached_tokens: tokens of its prompt that were not computed.
        """
        if not token_count:
            return
        if job.output_tokens or not job.computes_prompt:
            self._sequences += 1
            self._context_tokens += job.prompt_tokens + job.output_tokens
            return
        new = max(1, job.prompt_tokens - cached_tokens)
        self._new_tokens += new
        chunk = PrefillChunk(new_tokens=new, context_tokens=job.prompt_tokens - new)
        self._chunks_s += self._performance.chunk_s(chunk)

    def close(self, now_s: float, *, left: Iterable[RunningJob]) -> StepSpan | None:
        """End a span with a delivery and begin the next.

        Args:
            now_s: by the clock of `RunningJob.submitted_s`.
            left: jobs that the engine goes on with.

        Returns:
            The span, or None when the engine was idle or gave a job up in it.
        """
        began_s, self._began_s = self._began_s, None
        sequences, self._sequences = self._sequences, 0
        context_tokens, self._context_tokens = self._context_tokens, 0
        new_tokens, self._new_tokens = self._new_tokens, 0
        prefill_s, self._chunks_s = self._chunks_s, 0.0
        if any(job.output_tokens or job.computes_prompt for job in left):
            self._began_s = now_s
        if began_s is None:
            return None
        if new_tokens:
            prefill_s += self._performance.steps_s(tokens=new_tokens, step_tokens_max=self._step_tokens_max)
        decode_s = self._performance.decode_s(sequence_count=sequences, context_tokens=context_tokens)
        return StepSpan(took_s=now_s - began_s, prefill_s=prefill_s, decode_s=decode_s)
