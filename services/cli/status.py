"""`baton status`: pools, queue and KV use of a running cluster."""

import argparse

import msgspec

from services.cli.api import GatewayClient, add_gateway
from services.cli.output import add_json, table, write_json


class _Limits(msgspec.Struct):
    kv_blocks: int
    block_size_tokens: int


class Load(msgspec.Struct):
    """What it is busy with."""

    running_count: int
    waiting_count: int
    waiting_prefill_tokens: int
    kv_used_blocks: int
    leased_blocks: int


class Worker(msgspec.Struct):
    """One worker."""

    worker_id: str
    model: str
    phases: list[str]
    lifecycle: str
    address: str
    engine_kind: str
    limits: _Limits
    load: Load


class Cluster(msgspec.Struct):
    """What `/baton/v1/cluster` answers, as far as the command needs it."""

    workers: list[Worker]
    queue_waiting_count: int
    active_count: int
    bus_connected: bool


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "status",
        help="workers, queue and KV use",
        description="Show workers, prefill queue and KV use as one gateway sees them.",
        epilog="examples:\n  baton status\n  baton status --json -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_gateway(command)
    add_json(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    gateway = GatewayClient.of(options)
    try:
        text = gateway.get("/baton/v1/cluster")
    finally:
        gateway.close()
    if write_json(options.json, msgspec.Raw(text)):
        return 0
    cluster = msgspec.json.decode(text, type=Cluster)
    columns = ("worker", "phases", "state", "running", "waiting", "prompt tok", "KV used", "leased")
    for line in table(columns, [_row(w) for w in cluster.workers]):
        print(line)
    bus = (
        "connected" if cluster.bus_connected else "NOT CONNECTED: new prompts are prefilled by decode workers"
    )
    print(
        f"prefill queue: {cluster.queue_waiting_count} tasks; requests of this gateway: "
        f"{cluster.active_count}; NATS: {bus}"
    )
    return 0


def _row(worker: Worker) -> tuple[str, ...]:
    load = worker.load
    return (
        worker.worker_id,
        "+".join(worker.phases),
        worker.lifecycle,
        str(load.running_count),
        str(load.waiting_count),
        str(load.waiting_prefill_tokens),
        f"{load.kv_used_blocks / worker.limits.kv_blocks:.1%}",
        str(load.leased_blocks),
    )
