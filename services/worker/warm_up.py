"""The throw-away prompt that an engine computes before its worker joins.

Comes in: settings, the engine's facts. Goes out: a request, or none where there is no room for one.
Invariant: its cache scope can be named by no client. Not here: computing it (`services.worker.worker`).
"""

from services.domain.blocks import CacheScope
from services.domain.ids import EngineEpoch, RequestId
from services.domain.request import InferenceRequest, Sampling
from services.domain.worker import WorkerLimits
from services.worker.settings import WorkerSettings

WARM_UP = RequestId("warm-up")
OUTPUT_TOKENS = 4


def warm_up_request(
    settings: WorkerSettings, limits: WorkerLimits, epoch: EngineEpoch
) -> InferenceRequest | None:
    """Make the request; None when it is not wanted or would not fit into one step."""
    room = min(limits.step_tokens_max, limits.context_tokens_max, limits.kv_blocks * limits.block_size_tokens)
    tokens = min(settings.warm_up_tokens, room - OUTPUT_TOKENS)
    if tokens <= 0:
        return None
    return InferenceRequest(
        request_id=WARM_UP,
        scope=CacheScope(model=settings.model, salt=f"warm-up/{epoch}"),
        prompt_token_ids=tuple(i % 256 for i in range(tokens)),
        sampling=Sampling(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True),
    )
