"""One life of one vLLM: the `AsyncLLM`, the order of what is said to it, and its end.

Comes in: prepared requests, aborts, releases. Goes out: outputs through the step gatherer.
Invariant: commands reach the engine process in the order of the calls; when `close` returns, the engine
process, its sockets and its folder are gone. The command queue is bounded by the jobs: each brings at
most one request, one abort and one release.
Not here: what jobs mean (`adapter`), what runs in the engine process (`connector`, `extension`).
"""

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.tasks import SupportedTask
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from services.domain.errors import InvalidRequest
from services.domain.request import InferenceRequest
from services.domain.worker import WorkerLimits
from services.engine.port import KvSink
from services.engine.vllm import boot, environment
from services.engine.vllm.kv_events import KvLedger
from services.engine.vllm.plan import EnginePlan
from services.engine.vllm.sampling import to_sampling_params
from services.engine.vllm.settings import VllmSettings
from services.engine.vllm.steps import StepGatherer
from services.engine.vllm.subscription import KvSubscription

if TYPE_CHECKING:
    from services.engine.vllm.extension import WorkerFacts

log = logging.getLogger(__name__)

_WARM_UP_TOKENS = (3, 1, 4, 1, 5)
"""Fewer than a block, so that nothing of it enters the prefix cache."""
_CLOSE_S = 10.0
"""Longest wait for the last commands at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What is known once the engine is up."""

    limits: WorkerLimits
    kv_bytes_per_block: int
    eos_token_ids: tuple[int, ...]
    vocabulary_tokens: int
    """Token ids are below it; a larger one would make the engine read outside its embedding table."""
    engine_pid: int


class Session:
    """A running vLLM."""

    def __init__(
        self,
        llm: AsyncLLM,
        *,
        settings: VllmSettings,
        gatherer: StepGatherer,
        folder: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        self._llm = llm
        self._settings = settings
        self._gatherer = gatherer
        self._folder = folder
        self._tasks: tuple[SupportedTask, ...] = ()
        self._commands: asyncio.Queue[Callable[[], Coroutine[Any, Any, object]]] = asyncio.Queue()
        self._subscription: KvSubscription | None = None
        self._engine_pid: int | None = None
        self._adapters = {
            name: LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
            for number, (name, path) in enumerate(settings.adapters.items(), start=1)
        }

    @classmethod
    async def open(cls, settings: VllmSettings, *, gatherer: StepGatherer) -> "Session":
        """Start vLLM; the environment must be prepared.

        Raises:
            Exception: whatever vLLM raises when it does not come up.
        """
        folder = environment.private_folder()
        try:
            arguments = boot.engine_arguments(
                settings,
                events_endpoint=f"ipc://{folder.name}/events",
                replay_endpoint=f"ipc://{folder.name}/replay",
            )
            llm = await asyncio.to_thread(boot.start, arguments, stat_loggers=[gatherer.stat_logger])
        except BaseException:
            folder.cleanup()
            raise
        return cls(llm, settings=settings, gatherer=gatherer, folder=folder)

    async def settle(self, kv_sink: KvSink) -> SessionFacts:
        """Make the engine ready for work: pin it, prove that it steps, follow its cache.

        Raises:
            Exception: the engine does not answer.
        """
        self._tasks = await self._llm.get_supported_tasks()
        ranks = await self._call("baton_settle", os.getpid(), list(self._settings.cores), self._folder.name)
        facts = self._facts(ranks)
        self._engine_pid = facts.engine_pid
        warm_up = SamplingParams(
            max_tokens=2,
            temperature=0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        async for _ in self._llm.generate(tokens_input(list(_WARM_UP_TOKENS)), warm_up, "warm-up"):
            pass
        if self._settings.kv_events:
            self._subscription = KvSubscription(
                events_endpoint=f"ipc://{self._folder.name}/events",
                replay_endpoint=f"ipc://{self._folder.name}/replay",
                ledger=KvLedger(
                    model=self._settings.served_name, block_size_tokens=facts.limits.block_size_tokens
                ),
                sink=kv_sink,
            )
            await self._subscription.open()
        return facts

    def prepare(
        self, request: InferenceRequest, plan: EnginePlan, *, eos_token_ids: Sequence[int]
    ) -> EngineCoreRequest | InvalidRequest:
        """Check a planned request by vLLM's own rules and give it its engine id."""
        scope = request.scope
        try:
            prepared: EngineCoreRequest = self._llm.input_processor.process_inputs(
                request.request_id,
                tokens_input(list(plan.prompt_token_ids), cache_salt=scope.salt or None),
                to_sampling_params(request.sampling, plan, eos_token_ids=eos_token_ids),
                supported_tasks=self._tasks,
                lora_request=self._adapters[scope.adapter] if scope.adapter else None,
                priority=request.priority,
            )
        except (VLLMClientError, ValueError) as refusal:
            return InvalidRequest(message=str(refusal), param=getattr(refusal, "parameter", None))
        self._llm.input_processor.assign_request_id(prepared)
        return prepared

    def send(self, prepared: EngineCoreRequest, collector: RequestOutputCollector) -> None:
        """Queue a request for the engine; its outputs go to the collector."""
        self._llm.output_processor.add_request(prepared, None, queue=collector)
        self._commands.put_nowait(lambda: self._llm.engine_core.add_request_async(prepared))

    def abort(self, engine_request_id: str) -> None:
        """Queue an abort; outputs of the request are dropped from now on."""
        self._llm.output_processor.abort_requests([engine_request_id], internal=True)
        self._commands.put_nowait(lambda: self._llm.engine_core.abort_requests_async([engine_request_id]))

    def release(self, engine_request_ids: Sequence[str]) -> None:
        """Queue the early end of leases; unknown ids are ignored."""
        ids = list(engine_request_ids)
        self._commands.put_nowait(lambda: self._call("baton_release", ids))

    async def drive(self) -> None:
        """Say what is queued, in order, until cancelled.

        Raises:
            Exception: the engine is dead.
        """
        while True:
            command = await self._commands.get()
            try:
                await command()
            finally:
                self._commands.task_done()

    async def held(self) -> set[str]:
        """Ask which requests may hold leased blocks; also proves that the engine's loop turns.

        Raises:
            Exception: the engine is dead.
        """
        return {request_id for rank in await self._call("baton_held") for request_id in rank}

    async def check(self) -> None:
        """Ask vLLM whether its engine process lives.

        Raises:
            Exception: it does not.
        """
        await self._llm.check_health()

    async def close(self, *, leased: Sequence[str], dead: bool) -> None:
        """End the engine.

        Args:
            leased: engine ids of open leases; the engine process would wait for their end.
            dead: the engine was given up: nothing more is said to it, and its process is killed, since one
                that hangs or is stopped would hear no polite request.
        """
        if dead and self._engine_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._engine_pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(_CLOSE_S):
                if not dead and not self._llm.errored:
                    await self._commands.join()
                    await self._call("baton_release", list(leased))
        except (TimeoutError, EngineDeadError) as failure:
            log.warning("the engine does not answer at its end: %r", failure)
        if self._subscription is not None:
            await self._subscription.close()
        if (handler := self._llm.output_handler) is not None:
            handler.cancel()  # else it reports the end of its own engine as a failure
            await asyncio.gather(handler, return_exceptions=True)
        await asyncio.to_thread(self._llm.shutdown)
        await asyncio.sleep(0)  # vLLM closes its sockets with the next turn of the loop
        self._folder.cleanup()

    async def _call(self, method: str, *arguments: object) -> Any:
        return await self._llm.collective_rpc(method, args=arguments)

    def _facts(self, ranks: "Sequence[WorkerFacts]") -> SessionFacts:
        config = self._llm.vllm_config
        blocks = config.cache_config.num_gpu_blocks or 1
        block_size_tokens = config.cache_config.block_size
        bytes_per_block = sum(rank["kv_cache_bytes"] for rank in ranks) // blocks
        return SessionFacts(
            limits=WorkerLimits(
                block_size_tokens=block_size_tokens,
                kv_blocks=blocks - 1,  # vLLM keeps block 0 as its null block
                kv_bytes_per_token=bytes_per_block // block_size_tokens,
                context_tokens_max=config.model_config.max_model_len,
                sequences_max=config.scheduler_config.max_num_seqs,
                step_tokens_max=config.scheduler_config.max_num_batched_tokens,
                compatibility=boot.compatibility(self._settings, layout=ranks[0]["layout"]),
            ),
            kv_bytes_per_block=bytes_per_block,
            eos_token_ids=boot.eos_token_ids(self._llm),
            vocabulary_tokens=config.model_config.get_vocab_size(),
            engine_pid=ranks[0]["pid"],
        )
