"""Seeded sampling beside chunked prefill on the CPU; runs inside the engine process.

Comes in: vLLM's model runner. Goes out: the same runner, which no longer dies.
vLLM 0.32 samples a token after every chunk of a prompt and discards it unless the prompt is complete. It
takes the discarded draw back with `Generator.set_offset`, which PyTorch's CPU generator does not have: one
client that sends a seed and a prompt longer than a chunk kills the engine (measured). Invariant: a
request's generator is drawn from once per kept token, so its tokens do not depend on chunks.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def spare_generators(runner: "GPUModelRunner") -> None:
    """Hide the generators of rows whose token is discarded while the runner samples.

    Such a row is drawn from the process's common generator; vLLM then finds nothing to take back.

    Args:
        runner: of a CPU worker; changed in place, for good.
    """
    sample = runner.sample_tokens

    def sample_tokens(*arguments: Any, **named: Any) -> Any:
        batch = runner.input_batch
        discarded = np.nonzero(runner.discard_request_mask.np[: batch.num_reqs])[0]
        hidden = {row: batch.generators.pop(row) for row in discarded.tolist() if row in batch.generators}
        try:
            return sample(*arguments, **named)
        finally:
            batch.generators.update(hidden)

    setattr(runner, "sample_tokens", sample_tokens)  # noqa: B010  # a method of one instance
