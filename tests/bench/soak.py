"""A soak: light traffic on real engines for as long as wanted, while processes are killed and stopped.

    make soak ARGS="--minutes 40 --out docs/figures/soak"

Two soft-roled workers of real vLLM, two gateways, NATS; every answer is held against that of a quiet run.
Each minute or so one fault, drawn from a seed: kill -9 or SIGSTOP of a worker, of NATS, of a gateway, or a
burst of requests that their clients leave. Goes out: OUT.csv (one row per look), OUT.svg, a summary.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

import grpc

from services.tinymodel import model_path
from tests.bench.soak_figure import Panel, draw
from tests.bench.soak_sampling import Observer, Row, growths, write_csv
from tests.cli.command import FREE_PORTS, Up, baton_up
from tests.live.cluster import RunningCluster
from tests.live.questions import Truth, learn, make_questions, plain_channel, stream_grpc
from tests.live.traffic import Traffic, Verdicts, traffic

WORKERS = ("worker-0", "worker-1")
GATEWAY, SECOND = "gateway", "gateway-1"
LOOK_S = 5.0
CLIENTS = 4
PAUSE_S = 1.0
FAULT_GAP_S = (25.0, 55.0)
QUIET_S = 120.0
"""At the end nothing is broken any more: what is held then is a leak."""
STOP_S = (2.0, 14.0)
"""SIGSTOP for so long: from a hiccup to a worker that its gateways have given up."""
BURST = 20
FAULTS = (
    "kill worker",
    "stop worker",
    "kill nats",
    "stop nats",
    "kill gateway",
    "stop gateway",
    "leave",
    "leave",
)

CONFIG = f"""
pools: {{prefill: 0, decode: 0, both: 2}}
gateways: 2
router: {{early_rejection: false}}
vllm: {{model: {model_path()}, lease_s: 15}}
supervision: {{restarts_max: 1000, backoff_min_s: 0.1, backoff_max_s: 1, liveness_timeout_s: 120}}
"""


class Breaker:
    """Breaks one thing after another and waits until it is mended."""

    def __init__(
        self, up: Up, gateways: list[RunningCluster], running: Traffic, truth: Truth, seed: int
    ) -> None:
        self._up = up
        self._gateways = gateways
        self._traffic = running
        self._questions = list(truth)
        self._random = Random(seed)
        self._backs: Counter[str] = Counter()
        self.done: list[tuple[float, str]] = []
        """Moment, seconds since the start, and name of each fault."""

    async def run(self, until_s: float, began_s: float) -> None:
        """Break things until a moment of the loop's clock."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._random.uniform(*FAULT_GAP_S))
            if loop.time() >= until_s:
                return
            fault = self._random.choice(FAULTS)
            self.done.append((loop.time() - began_s, fault))
            print(f"{(loop.time() - began_s) / 60:6.1f} min  {fault}", flush=True)
            await self._break(fault)

    async def _break(self, fault: str) -> None:
        match fault.split():
            case ["kill", "worker"]:
                await self._kill(self._random.choice(WORKERS))
                await self._all_ready()
            case ["kill", "gateway"]:
                self._traffic.excuse(1)
                await self._kill(SECOND)
                self._traffic.welcome(1)
            case ["kill", name]:
                await self._kill(name)
            case ["stop", "worker"]:
                await self._stop(self._random.choice(WORKERS))
                await self._all_ready()
            case ["stop", name]:
                await self._stop(SECOND if name == "gateway" else name)
            case _:
                await asyncio.gather(*(self._leave() for _ in range(BURST)))

    async def _kill(self, name: str) -> None:
        self._up.kill(name)
        self._backs[name] += 1
        await self._up.says(f"{name} is back after", times=self._backs[name])

    async def _stop(self, name: str) -> None:
        group = os.getpgid(self._up.pid(name))
        os.killpg(group, signal.SIGSTOP)
        await asyncio.sleep(self._random.uniform(*STOP_S))
        os.killpg(group, signal.SIGCONT)

    async def _all_ready(self) -> None:
        for gateway in self._gateways:
            await gateway.becomes(lambda state: {w.worker_id for w in state.workers} == set(WORKERS))

    async def _leave(self) -> None:
        """Ask and leave at a random moment."""
        question = self._random.choice(self._questions)
        async with plain_channel(self._random.choice(self._gateways)) as channel:
            try:
                async with asyncio.timeout(self._random.uniform(0.0, 2.0)):
                    await stream_grpc(channel, question, f"leave {self._random.random()}")
            except (TimeoutError, grpc.aio.AioRpcError):
                return


async def observe(observer: Observer, rows: list[Row], began_s: float) -> None:
    """Take a row every `LOOK_S` until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        rows.append(await observer.look(loop.time() - began_s))
        await asyncio.sleep(LOOK_S)


async def soak(minutes: float, seed: int, out: Path) -> None:
    """Run it and write what was seen."""
    loop = asyncio.get_running_loop()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        config = Path(folder) / "cluster.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        async with baton_up(Path(folder), *FREE_PORTS, "--config", str(config)) as up:
            first = await up.becomes_ready()
            gateways = [first, RunningCluster(up.folder, SECOND)]
            truth = await learn(first, make_questions(40))
            began_s = loop.time()
            observer = Observer(up, dict(zip((GATEWAY, SECOND), gateways, strict=True)), WORKERS)
            observing = asyncio.ensure_future(observe(observer, rows, began_s))
            faults: list[tuple[float, str]] = []
            try:
                async with traffic(gateways, truth, salt="soak", clients=CLIENTS, pause_s=PAUSE_S) as running:
                    breaker = Breaker(up, gateways, running, truth, seed)
                    faults = breaker.done
                    await breaker.run(began_s + 60 * minutes - QUIET_S, began_s)
                    await asyncio.sleep(QUIET_S)
                for gateway in gateways:
                    await gateway.becomes_idle()
                rows.append(await observer.look(loop.time() - began_s))
            finally:
                observing.cancel()
                write(out, rows, faults)
                tell(rows, faults, running.verdicts, up)


def tell(rows: list[Row], faults: list[tuple[float, str]], verdicts: Verdicts, up: Up) -> None:
    """Print the summary."""
    print(
        f"requests: {verdicts.exact} exact, {verdicts.excused} lost with their own gateway, "
        f"{len(verdicts.failed)} failed"
    )
    counts = Counter(fault for _, fault in faults)
    print("faults:", ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())))
    print("restarts:", up.err.count("is back after"))
    print("median of the second quarter -> of the last:")
    for growth in growths(rows):
        print(f"  {growth.name:28} {growth.early:10.1f} -> {growth.late:10.1f}")


def write(out: Path, rows: list[Row], faults: list[tuple[float, str]]) -> None:
    """Write CSV and figure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(out.with_suffix(".csv"), rows)
    out.with_suffix(".svg").write_text(figure(rows, [moment_s for moment_s, _ in faults]), encoding="utf-8")


def figure(rows: list[Row], faults_s: list[float]) -> str:
    """Draw a soak.

    Args:
        rows: what was seen.
        faults_s: when something was broken, seconds since the start.
    """

    def lines(prefix: str, among: tuple[str, ...]) -> dict[str, list[float]]:
        names = [name for name in rows[0] if name.startswith(prefix) and name.endswith(among)]
        return {name.removeprefix(prefix): [row[name] for row in rows] for name in names}

    heavy = tuple(name for worker in WORKERS for name in (worker, f"{worker} engine"))
    light = ("baton up", GATEWAY, SECOND, "nats")
    panels = [
        Panel(title="resident memory of engines and their workers, MiB", lines=lines("rss_mib ", heavy)),
        Panel(title="resident memory of all others, MiB", lines=lines("rss_mib ", light)),
        Panel(title="open file descriptors", lines=lines("fds ", (*heavy, *light))),
        Panel(
            title="held for requests: KV blocks leased, tasks queued, requests in engines",
            lines=lines("", ("leased_blocks", "queue_tasks", "running_requests")),
        ),
        Panel(title="KV blocks known to each gateway's router", lines=lines("index_blocks ", light)),
    ]
    return draw(
        f"{len(faults_s)} faults in {rows[-1]['elapsed_s'] / 60:.0f} minutes (red ticks)",
        [row["elapsed_s"] / 60 for row in rows],
        panels,
        [moment_s / 60 for moment_s in faults_s],
    )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Soak a real cluster under mixed faults.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    options = parser.parse_args()
    if 60 * options.minutes <= QUIET_S:
        sys.exit(f"--minutes: the last {QUIET_S / 60:g} are quiet; give it more")
    asyncio.run(soak(options.minutes, options.seed, options.out))


if __name__ == "__main__":
    main()
