"""A planner that runs a local cluster of real vLLM engines: what it does under a changing load, told live.

    python -m tests.bench.planner_live

One engine alone first answers every question: what it writes is the truth, and targets follow from what it
takes on this machine now. Then `baton up --plan` begins with one prefill and one decode worker, three engines
at most, and clients come in three stretches: long prompts until a worker more is ready, many long answers
until one was turned, hardly anybody until one drained and went. Goes out: each start, turn and drain with its
time, the pools at the end of each stretch, and a verdict over every request. Exits with 1 when an answer
differs, or a stretch did not bring what it is for.
"""

import argparse
import asyncio
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import msgspec

from services.cluster.settings import ClusterSettings, PoolSettings
from services.domain.pools import Launched
from services.domain.slo import Slo
from services.router.settings import RouterSettings
from tests.cli.command import FREE_PORTS, NEWS_S, Up, baton_up
from tests.live.cluster import RunningCluster, open_cluster, until
from tests.live.conftest import vllm
from tests.live.questions import VOCABULARY, Answer, Question, Truth, plain_channel, stream_grpc
from tests.live.traffic import traffic

PLANNER = """
planner:
  targets: {{ttft_s: {ttft_s}, tpot_s: {tpot_s}}}
  look_s: 1
  kinds:
    - {{name: default, performance: cpu-baton-tiny, start_s: 30, sequences_max: 128, step_tokens_max: 2048,
       workers_max: 3}}
  budget_factor_max: 1
"""
CLUSTER = """
launcher: {port: 0}
router: {early_rejection: false}
"""
PAUSE_S = 0.05
TTFT_ALONE = 6.0
"""The TTFT target, in longest prompts that an idle engine reads."""
TPOT_ALONE = 4.0
"""The TPOT target, in steps of one sequence."""
DONE = ("is started for", "is ready after", "is turned to", "is let go", "ended in order")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A load, and the news that it is for.

    Attributes:
        name: what it is called.
        prompt_tokens: least and most of a prompt.
        output_tokens: least and most of an answer.
        questions: different ones.
        clients: that ask at the same time.
        pause_s: of a client between an answer and its next question.
        brings: what `baton up` says when the planner did what this is for.
    """

    name: str
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    questions: int
    clients: int
    pause_s: float
    brings: str


def stretches(clients: int) -> tuple[Stretch, ...]:
    """The three loads, one after another."""
    return (
        Stretch(
            name="long prompts",
            prompt_tokens=(900, 1800),
            output_tokens=(2, 6),
            questions=40,  # more than a cache holds
            clients=clients,
            pause_s=PAUSE_S,
            brings=r"worker-\d+ is ready after",
        ),
        Stretch(
            name="long answers",
            prompt_tokens=(20, 150),
            output_tokens=(60, 120),
            questions=8,
            clients=6 * clients,
            pause_s=PAUSE_S,
            brings=r"is turned to decode",
        ),
        Stretch(
            name="hardly anybody",
            prompt_tokens=(20, 150),
            output_tokens=(8, 24),
            questions=8,
            clients=1,
            pause_s=1.0,
            brings=r"worker-\d+ ended in order",
        ),
    )


def questions(stretch: Stretch) -> tuple[Question, ...]:
    """Questions of a load."""
    random = Random(stretch.name)
    return tuple(
        Question(
            token_ids=tuple(
                random.randrange(300, VOCABULARY) for _ in range(random.randint(*stretch.prompt_tokens))
            ),
            sampling=("greedy", "seeded")[index % 2],
            output_tokens=random.randint(*stretch.output_tokens),
        )
        for index in range(stretch.questions)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What one engine answers, and how quickly.

    Attributes:
        truth: by question.
        prompt_s: for the longest prompt and a few tokens.
        step_s: per token of the longest answer.
    """

    truth: Truth
    prompt_s: float
    step_s: float


async def answers(cluster: RunningCluster, asked: Sequence[Question]) -> Alone:
    """Have every question answered, one at a time."""
    found: dict[Question, Answer] = {}
    took_s: dict[Question, float] = {}
    async with plain_channel(cluster) as channel:
        for index, question in enumerate(asked):
            began_s = time.monotonic()
            found[question] = await stream_grpc(channel, question, f"truth {index}")
            took_s[question] = time.monotonic() - began_s
    assert all(answer.endings == ("length",) for answer in found.values()), found
    longest = max(asked, key=lambda question: len(question.token_ids))
    wordiest = max(asked, key=lambda question: question.output_tokens)
    return Alone(truth=found, prompt_s=took_s[longest], step_s=took_s[wordiest] / wordiest.output_tokens)


def learnt(asked: Sequence[Question], folder: Path) -> Alone:
    """Have one plain engine, which hands nothing over, answer every question; it is gone afterwards."""
    settings = ClusterSettings(
        pools=PoolSettings(prefill=0, decode=1),
        vllm=vllm(disaggregation=False),
        router=RouterSettings(early_rejection=False),
    )
    with open_cluster(settings, folder) as cluster:
        return asyncio.run(answers(cluster, asked))


class Telling:
    """Prints what `baton up` says, with the time since the beginning."""

    def __init__(self, up: Up) -> None:
        """Begin now."""
        self._up = up
        self._began_s = asyncio.get_running_loop().time()
        self._told = 0

    async def run(self) -> None:
        """Print until cancelled."""
        while True:
            lines = self._up.err.splitlines()
            for line in lines[self._told :]:
                self.say(line)
            self._told = len(lines)
            await asyncio.sleep(0.2)

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"{asyncio.get_running_loop().time() - self._began_s:6.1f} s  {text}", flush=True)


async def brought(up: Up, news: str, options: argparse.Namespace) -> bool:
    """Wait for a line of news and some time more; False when it did not come."""
    begun = len(up.err)
    try:
        await until(lambda: re.search(news, up.err[begun:]) is not None, options.seconds_max)
    except TimeoutError:
        return False
    await asyncio.sleep(options.seconds)
    return True


async def pools(url: str) -> str:
    """Describe the pools as the launcher has them."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        launched = msgspec.json.decode((await http.get("/pools")).content, type=Launched)
    return ", ".join(
        f"{pool.phase.value} {pool.ready_count}"
        + (f" (+{len(pool.starting_s)} starting)" if pool.starting_s else "")
        + (f" ({pool.draining_count} draining)" if pool.draining_count else "")
        for pool in launched.pools
    )


async def play(options: argparse.Namespace, truths: Mapping[str, Truth], slo: Slo, folder: Path) -> int:
    """Run the stretches against a planned cluster; returns the exit code."""
    plan, config = folder / "planner.yaml", folder / "cluster.yaml"
    plan.write_text(PLANNER.format(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s), encoding="utf-8")
    config.write_text(CLUSTER, encoding="utf-8")
    exact, failed, missed = 0, list[str](), list[str]()
    async with baton_up(folder, *FREE_PORTS, "--config", str(config), "--plan", str(plan)) as up:
        await until(lambda: "\n  logs " in up.out or up.process.returncode is not None, NEWS_S)
        cluster = await up.becomes_ready()
        found = re.search(r"launcher +(http\S+)", up.out)
        assert found
        telling = Telling(up)
        printing = asyncio.ensure_future(telling.run())
        for stretch in stretches(options.clients):
            telling.say(f"-- {stretch.name}: {stretch.clients} clients; {await pools(found[1])}")
            async with traffic(
                [cluster],
                truths[stretch.name],
                salt=stretch.name,
                clients=stretch.clients,
                pause_s=stretch.pause_s,
            ) as running:
                if not await brought(up, stretch.brings, options):
                    missed.append(f"{stretch.name}: nobody {stretch.brings}")
            exact += running.verdicts.exact
            failed += running.verdicts.failed
            telling.say(f"   {running.verdicts.exact} answers, all exact; {await pools(found[1])}")
        telling.say(f"-- the end: {await pools(found[1])}")
        printing.cancel()
        done = {kind: up.err.count(kind) for kind in DONE}
        up.process.send_signal(signal.SIGINT)
        code = await up.ends()
        decisions = (up.folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    print(f"{exact} requests exact, {len(failed)} not; {done}; {len(decisions)} decisions; exit code {code}")
    print(*missed, sep="\n", end="")
    return 0 if not failed and not missed and code == 0 else 1


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of a stretch after its news (default: 20)"
    )
    parser.add_argument(
        "--seconds-max", type=float, default=240.0, help="for the news to come (default: 240)"
    )
    parser.add_argument("--clients", type=int, default=12, help="at the same time (default: 12)")
    parser.add_argument(
        "--ttft-s", type=float, help=f"target (default: {TTFT_ALONE:g} longest prompts alone)"
    )
    parser.add_argument("--tpot-s", type=float, help=f"target (default: {TPOT_ALONE:g} steps alone)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="baton-planner-live-"))
    asked = {stretch.name: questions(stretch) for stretch in stretches(options.clients)}
    alone = learnt([each for some in asked.values() for each in some], folder / "alone")
    truths = {name: {each: alone.truth[each] for each in some} for name, some in asked.items()}
    slo = Slo(
        ttft_s=options.ttft_s or round(TTFT_ALONE * alone.prompt_s, 2),
        tpot_s=options.tpot_s or round(TPOT_ALONE * alone.step_s, 3),
    )
    print(
        f"alone: {1e3 * alone.prompt_s:.0f} ms for the longest prompt, {1e3 * alone.step_s:.1f} ms a step; "
        f"targets: {slo.ttft_s:g} s, {1e3 * slo.tpot_s:g} ms",
        flush=True,
    )
    return asyncio.run(play(options, truths, slo, folder))


if __name__ == "__main__":
    sys.exit(main())
