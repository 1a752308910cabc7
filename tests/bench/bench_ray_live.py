"""Real vLLM on a local Ray cluster: token-exact, through the loss of a worker, and while pools are scaled.

Run it with `python -m tests.bench.bench_ray_live [--questions N]`. One aggregated engine without Ray answers
first; then `baton up --on ray` brings one prefill and one decode worker up, and the same questions are asked
again, all prompts by remote prefill; again while the planner's target orders a second decode worker; again
while one of the two is killed; again while one of them drains. Ends with 1 when an answer differs or is lost.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from services.cluster.settings import ClusterSettings, PoolSettings
from services.domain.worker import Phase
from tests.cli.command import FREE_PORTS, baton_up
from tests.live.cluster import SeenCluster, open_cluster
from tests.live.conftest import vllm
from tests.live.processes import naming
from tests.live.questions import (
    AUTO,
    REMOTE,
    Answer,
    Question,
    Truth,
    learn,
    make_questions,
    plain_channel,
    stream_grpc,
)
from tests.live.ray_cluster import OnRay, becomes_ready, make_token

CONFIG = """\
ray: {{local_cpus: 4, local_dashboard_port: 0, local_folder: {folder}}}
router: {{early_rejection: false}}
start_timeout_s: 600
"""


def reference(questions: Sequence[Question], folder: Path) -> Truth:
    """Have one aggregated engine answer everything; it is gone afterwards."""
    settings = ClusterSettings(pools=PoolSettings(prefill=0, decode=1), vllm=vllm(disaggregation=False))
    with open_cluster(settings, folder) as cluster:
        return asyncio.run(learn(cluster, questions))


async def ask(ray: OnRay, questions: Sequence[Question], salt: str, *, remote: bool) -> list[Answer]:
    """Ask everything at once."""
    path = REMOTE if remote else AUTO
    async with plain_channel(ray.cluster) as channel:
        return await asyncio.gather(
            *(stream_grpc(channel, question, f"{salt} {i}", path) for i, question in enumerate(questions))
        )


def tell(what: str, answers: Sequence[Answer], truth: Truth, began_s: float) -> bool:
    """Print a row; whether every answer is the reference's."""
    equal = sum(answer.matches(expected) for answer, expected in zip(answers, truth.values(), strict=True))
    print(f"{what:<58} {equal:>3} of {len(truth):>3} token-exact  {monotonic() - began_s:6.1f} s", flush=True)
    for answer, expected in zip(answers, truth.values(), strict=True):
        if not answer.matches(expected):
            print(f"  {answer.endings}, {len(answer.token_ids)} of {len(expected.token_ids)} tokens")
    return equal == len(truth)


async def running(ray: OnRay) -> str:
    """Wait until a decode worker runs something; returns its id."""
    decoding = await ray.workers(Phase.DECODE)
    found = ""

    def runs(seen: SeenCluster) -> bool:
        nonlocal found
        found = next(
            (w.worker_id for w in seen.workers if w.worker_id in decoding and w.load.running_count), ""
        )
        return bool(found)

    await ray.cluster.becomes(runs)
    return found


async def rounds(ray: OnRay, questions: Sequence[Question], truth: Truth) -> bool:
    """Ask in every situation; whether all was token-exact."""
    began_s = monotonic()
    exact = [tell("one prefill, one decode", await ask(ray, questions, "a", remote=True), truth, began_s)]

    began_s = monotonic()
    asking = asyncio.ensure_future(ask(ray, questions, "b", remote=False))
    outcome = await ray.scales(prefill=1, decode=2)
    exact.append(tell(f"while {outcome.done[0]} is ordered", await asking, truth, began_s))
    await ray.becomes(prefill=1, decode=2)
    print(f"  it serves {monotonic() - began_s:.1f} s after the order", flush=True)

    began_s = monotonic()
    asking = asyncio.ensure_future(ask(ray, questions, "c", remote=True))
    lost = await running(ray)
    (pid,) = naming(str(ray.logs / f"{lost}.json"))
    os.kill(pid, signal.SIGKILL)
    exact.append(tell("one of two decode workers killed meanwhile", await asking, truth, began_s))
    await ray.becomes(prefill=1, decode=2)
    print(f"  {lost} is replaced {monotonic() - began_s:.1f} s after the questions", flush=True)

    began_s = monotonic()
    asking = asyncio.ensure_future(ask(ray, questions, "d", remote=True))
    await running(ray)
    outcome = await ray.scales(prefill=1, decode=1)
    exact.append(tell(f"while {outcome.done[0]} drains", await asking, truth, began_s))
    await ray.becomes(prefill=1, decode=1)
    return all(exact)


async def run(count: int) -> int:
    """Run everything; returns the exit code."""
    questions = make_questions(count)
    with tempfile.TemporaryDirectory(prefix="ray-") as made:
        folder = Path(made)
        truth = await asyncio.to_thread(reference, questions, folder / "aggregated")
        os.environ |= make_token(folder)
        (folder / "ray.yaml").write_text(CONFIG.format(folder=folder), encoding="utf-8")
        began_s = monotonic()
        async with baton_up(folder, "--on", "ray", *FREE_PORTS, "--config", str(folder / "ray.yaml")) as up:
            ray = await becomes_ready(up)
            print(f"ready after {monotonic() - began_s:.1f} s", flush=True)
            exact = await rounds(ray, questions, truth)
            await ray.target.close()
            up.process.send_signal(signal.SIGINT)
            code = await up.ends()
    return 0 if exact and code == 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=16)
    sys.exit(asyncio.run(run(parser.parse_args().questions)))
