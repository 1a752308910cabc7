"""The prefill queue's vocabulary: what waits, who claimed it, what a claimant is given.

Comes in: the router's decision to prefill remotely. Goes out: a small record that every prefill
worker can look at, and a body that only the claimant reads.
Invariant: a task is executed at least once and has effect once; a claim is held by one worker at most,
and ends when it is completed or not renewed for `claim_ttl_s` by the reader's own clock.
Not here: storage (`services.bus`), the order of claims (`services.prefill`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.domain.blocks import BlockHash
from services.domain.ids import GatewayId, TaskId, WorkerId
from services.domain.request import InferenceRequest
from services.domain.slo import Slo

PREFIX_MARKS_MAX = 64
"""Most block hashes carried by a record: enough to judge overlap, small enough to look at thousands."""


class PrefixMark(NamedTuple):
    """The hash after some leading blocks of a prompt.

    A tuple, unlike its neighbours: every worker reads up to PREFIX_MARKS_MAX of them per waiting task,
    and a frozen dataclass takes three times as long to make.
    """

    depth_blocks: int
    """Leading blocks that the hash stands for, >= 1."""
    block_hash: BlockHash


def mark_depths(blocks: int) -> range:
    """Say behind how many leading blocks a prompt has its marks; the last block has one besides.

    They are multiples of a power of two, so that marks of prompts of any two lengths meet, and prompts that
    begin alike can be told by them.

    Args:
        blocks: of the prompt.
    """
    stride = 1
    while blocks > stride * (PREFIX_MARKS_MAX - 1):
        stride *= 2
    return range(stride, blocks, stride)


def mark_hashes(hashes: Sequence[BlockHash]) -> tuple[BlockHash, ...]:
    """Choose the hashes of a prompt's marks: at `mark_depths`, then the last one.

    Args:
        hashes: shape [blocks], a chain as `hash_blocks` gives it, not empty.
    """
    depths = mark_depths(len(hashes))
    return (*hashes[depths.start - 1 : len(hashes) - 1 : depths.step], hashes[-1])


def mark_prefix(hashes: Sequence[BlockHash]) -> tuple[PrefixMark, ...]:
    """Choose at most PREFIX_MARKS_MAX evenly spaced hashes of a chain, and always the last one.

    Args:
        hashes: shape [blocks], a chain as `hash_blocks` gives it.
    """
    if not hashes:
        return ()
    depths = (*mark_depths(len(hashes)), len(hashes))
    return tuple(map(PrefixMark, depths, mark_hashes(hashes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What a worker sees of a waiting task before it claims it.

    Attributes:
        task_id: key of the task.
        gateway_id: who waits for the handoff.
        model: only workers that serve it may claim.
        priority: smaller is more urgent.
        prompt_tokens: length of the prompt.
        marks: prefix marks of the prompt, shallow first; block size is the model's.
        deadline_s: time left when the record was written; None waits without limit.
        ttft_target_s: time left, when the record was written, until the first token is late.
        decode_s: predicted time from the first token to the last; 0 while nothing is known of it.
        slo: what its gateway judges requests by; None: stalls that it causes are not priced.
        preferred_worker_id: who held most of the prefix when the task was placed; a hint, no tie.
        preferred_overlap_blocks: leading blocks that worker held.
    """

    task_id: TaskId
    gateway_id: GatewayId
    model: str
    priority: int
    prompt_tokens: int
    marks: tuple[PrefixMark, ...]
    deadline_s: float | None
    ttft_target_s: float
    decode_s: float = 0.0
    slo: Slo | None = None
    preferred_worker_id: WorkerId | None = None
    preferred_overlap_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTask:
    """A record and the request it stands for."""

    record: TaskRecord
    request: InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who works on a task."""

    worker_id: WorkerId
    attempt: int
    """1 for the first claim of the task, one more for each after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTask:
    """A task as the queue shows it at one moment."""

    record: TaskRecord
    revision: int
    """Changes with every write; a claim succeeds only against the newest one."""
    claim: Claim | None
    attempts: int
    """Claims so far, the present one included."""
    waited_s: float
    """Since the reader first saw the task, by the reader's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedTask:
    """A task that this worker holds, with what it needs to execute it."""

    task: PrefillTask
    claim: Claim
    revision: int
    waited_s: float
    """From first sight to claim."""
