"""Values to put on a bus, and waits with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from services.bus.port import FleetChange, QueueView, WorkerLeft, WorkerSeen
from services.domain.blocks import BlockHash, BlocksStored, CacheScope, KvEventBatch, hash_blocks
from services.domain.ids import EngineEpoch, GatewayId, RequestId, TaskId, WorkerId
from services.domain.performance import PerformanceModel
from services.domain.request import InferenceRequest, Sampling
from services.domain.task import PrefillTask, QueuedTask, TaskRecord, mark_prefix
from services.domain.worker import Lifecycle, Phase, WorkerLimits, WorkerLoad, WorkerStatus

T = TypeVar("T")

DEADLINE_S = 15.0
"""Longest wait for anything that must happen."""

SCOPE = CacheScope(model="stories")


def task(
    name: str,
    *,
    prompt_tokens: int = 64,
    priority: int = 0,
    deadline_s: float | None = 60.0,
) -> PrefillTask:
    """A task whose request has a prompt of the given length."""
    prompt = tuple(i % 4096 for i in range(prompt_tokens))
    return PrefillTask(
        record=TaskRecord(
            task_id=TaskId(name),
            gateway_id=GatewayId("gateway-1"),
            model=SCOPE.model,
            priority=priority,
            prompt_tokens=prompt_tokens,
            marks=mark_prefix(hash_blocks(prompt[:256], block_size_tokens=16, scope=SCOPE)),
            deadline_s=deadline_s,
            ttft_target_s=2.0,
            preferred_worker_id=WorkerId("worker-1"),
            preferred_overlap_blocks=3,
        ),
        request=InferenceRequest(
            request_id=RequestId(f"request-of-{name}"),
            scope=SCOPE,
            prompt_token_ids=prompt,
            sampling=Sampling(max_tokens=32, seed=7),
            priority=priority,
        ),
    )


def status(name: str, *, sequence: int = 1) -> WorkerStatus:
    """A ready worker."""
    return WorkerStatus(
        worker_id=WorkerId(name),
        epoch=EngineEpoch(f"epoch-of-{name}"),
        sequence=sequence,
        model=SCOPE.model,
        phases=(Phase.PREFILL, Phase.DECODE),
        lifecycle=Lifecycle.READY,
        address="127.0.0.1:7001",
        limits=WorkerLimits(
            block_size_tokens=16,
            kv_blocks=1024,
            kv_bytes_per_token=2048,
            context_tokens_max=4096,
            sequences_max=64,
            step_tokens_max=2048,
            compatibility="simulated/1",
        ),
        load=WorkerLoad(running_count=2, kv_used_blocks=17),
        performance=PerformanceModel(
            prefill_step_s=0.018,
            prefill_token_s=1.4e-5,
            prefill_attention_s=1e-9,
            decode_step_s=0.0044,
            decode_sequence_s=3.8e-5,
            decode_context_token_s=3e-8,
            handoff_s=0.01,
            transfer_bytes_per_s=1e9,
        ),
        engine_kind="simulated",
        kv_sequence=sequence,
    )


def batch(name: str, sequence: int) -> KvEventBatch:
    """One numbered batch of a worker."""
    return KvEventBatch(
        worker_id=WorkerId(name),
        epoch=EngineEpoch(f"epoch-of-{name}"),
        sequence=sequence,
        events=(BlocksStored(parent=SCOPE.root(), hashes=(BlockHash(sequence), BlockHash(2**64 - 1))),),
    )


async def until(view: QueueView, holds: Callable[[tuple[QueuedTask, ...]], bool]) -> tuple[QueuedTask, ...]:
    """Wait until a view shows what is expected."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds(view.tasks()):
            await view.changed(DEADLINE_S)
    return view.tasks()


async def until_empty(view: QueueView) -> None:
    """Wait until a view shows no task."""
    await until(view, lambda tasks: not tasks)


async def first(view: QueueView) -> QueuedTask:
    """Wait for the first unclaimed task of a view."""
    tasks = await until(view, lambda tasks: any(t.claim is None for t in tasks))
    return next(t for t in tasks if t.claim is None)


async def take(messages: AsyncIterator[T], count: int) -> list[T]:
    """Read the next messages."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(messages) for _ in range(count)]


async def until_change(changes: AsyncIterator[FleetChange], wanted: FleetChange) -> list[FleetChange]:
    """Read changes until the wanted one; returns all of them, it included."""
    read: list[FleetChange] = []
    async with asyncio.timeout(DEADLINE_S):
        while not read or read[-1] != wanted:
            read.append(await anext(changes))
    return read


def seen(name: str, sequence: int = 1) -> WorkerSeen:
    """The change that a status brings."""
    return WorkerSeen(status=status(name, sequence=sequence))


def left(name: str) -> WorkerLeft:
    """The change that a departure brings."""
    return WorkerLeft(worker_id=WorkerId(name))
