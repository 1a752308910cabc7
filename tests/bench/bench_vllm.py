"""How fast vLLM is here, as the constants of the performance model: `baton profile` with bench settings.

Run it with `python -m tests.bench.bench_vllm [--dtype float32]`: two engines of the shipped model, a core
each. The presets of `services.domain.performance` named `cpu-...` come from it.
"""

import argparse
import asyncio

from services.cli.calibrating import measure_live
from services.cli.fit_report import print_report
from services.cluster.settings import ClusterSettings
from services.engine.vllm.settings import VllmSettings
from services.tinymodel import model_path

BUDGET_S = 300.0


async def main(dtype: str) -> None:
    """Measure, fit, print."""
    vllm = VllmSettings(
        model=str(model_path()),
        dtype=dtype,  # type: ignore[arg-type]  # argparse has checked it
        context_tokens_max=8000,
        step_tokens_max=8192,
    )
    found = await measure_live(
        ClusterSettings(vllm=vllm),
        handoff=True,
        quick=False,
        budget_s=BUDGET_S,
        preset_name="cpu-baton-tiny",
        tell=lambda progress: None,
        say=print,
    )
    print_report(found)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    asyncio.run(main(arguments.parse_args().dtype))
