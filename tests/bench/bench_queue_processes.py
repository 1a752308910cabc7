"""Measure the way of one prefill task from a gateway's process to an idle worker's, hop by hop.

The program starts its own server on loopback and a second process that claims; both ends read one
monotonic clock (Linux). A plain FIFO work queue takes turns with the claims, task by task, so that both
meet the same noise: compare ratios. What follows from them: `docs/decisions/0002-prefill-queue-claims.md`.
"""

import argparse
import asyncio
import os
import sys
from time import perf_counter

from bench_queue import WAIT_S, Fifo, Series, cluster, task  # type: ignore[import-not-found]  # run by path

from services.bus.nats import NatsBus, connect
from services.bus.settings import BusSettings
from services.domain.ids import WorkerId
from services.wire.codec import decode_request, encode_request

WARM_UP_ROUNDS = 30


def tell(*moments_s: float) -> None:
    """Write one line for the gateway's process to read."""
    print(*moments_s, flush=True)


async def claim_tasks(bus: NatsBus) -> None:
    """Claim each task at first sight; tell when it was seen and when its body was here; complete it."""
    async with bus.queue.view() as view:
        tell(perf_counter())
        while True:
            waiting = [queued for queued in view.tasks() if queued.claim is None]
            if not waiting:
                await view.changed(WAIT_S)
                continue
            seen_s = perf_counter()
            claimed = await bus.queue.claim(waiting[0], WorkerId("worker"))
            ended_s = perf_counter()
            assert claimed is not None
            await bus.queue.complete(claimed)
            while view.get(claimed.task.record.task_id) is not None:
                await view.changed(WAIT_S)
            tell(seen_s, ended_s)


async def pull_tasks(fifo: Fifo) -> None:
    """Take each message of the plain queue; tell when it was here and when it was read."""
    while True:
        (message,) = await fifo.pull.fetch(1, timeout=WAIT_S)
        seen_s = perf_counter()
        decode_request(message.data)
        ended_s = perf_counter()
        await message.ack_sync()
        tell(seen_s, ended_s)


async def serve(url: str) -> None:
    """Be the worker's process until it is ended."""
    bus = await connect(BusSettings(url=url), name="worker")
    fifo = Fifo(bus, bus)
    await fifo.open()
    await asyncio.gather(claim_tasks(bus), pull_tasks(fifo))


async def measure(rounds: int) -> dict[str, Series]:
    """Send tasks one by one, in turn to the plain queue and to the claims."""
    found: dict[str, Series] = {}
    async with cluster(0, in_memory=False) as (gateway, _):
        worker = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--worker", gateway._connection.settings.url,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert worker.stdout is not None
        try:
            await worker.stdout.readline()
            for number in range(WARM_UP_ROUNDS + rounds):
                wanted = task(f"t{number}")
                for name in ("FIFO", "claims"):
                    started_s = perf_counter()
                    if name == "FIFO":
                        body = encode_request(wanted.request)
                        await gateway._connection.jetstream.publish("fifo.task", body)
                    else:
                        await gateway.queue.enqueue(wanted)
                    stored_s = perf_counter()
                    line = await worker.stdout.readline()
                    seen_s, ended_s = map(float, line.split())
                    if number < WARM_UP_ROUNDS:
                        continue
                    for hop, took_s in (
                        ("enqueue call", stored_s - started_s),
                        ("enqueue to seen", seen_s - started_s),
                        ("seen to body", ended_s - seen_s),
                        ("enqueue to body", ended_s - started_s),
                    ):
                        found.setdefault(f"{name}: {hop}", Series()).values_s.append(took_s)
        finally:
            worker.kill()
            await worker.wait()
    return found


def main() -> None:
    """Run the measurement, or its other process."""
    parser = argparse.ArgumentParser(description="Measure one claim across processes.")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--worker", metavar="URL", help="be the worker's process")
    arguments = parser.parse_args()
    if arguments.worker is not None:
        asyncio.run(serve(arguments.worker))
        return
    found = asyncio.run(measure(arguments.rounds))
    print(f"\ngateway and worker in two processes: ms, load average {os.getloadavg()[0]:.1f}")
    for name, series in found.items():
        print(f"  {name:24}  min {min(series.values_s) * 1e3:6.2f}  {series.text()}")


if __name__ == "__main__":
    main()
