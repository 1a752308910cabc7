"""`baton explain`: why a request went where it went, and what it cost."""

import argparse
from pathlib import Path

import msgspec

from services.cli.api import GatewayClient, add_gateway
from services.cli.output import add_json, table, write_json
from services.cli.records import Record
from services.cli.story import tell
from services.replay.measured import MeasuredRequest, write_measured

RECENT_SHOWN = 20


class _Recent(msgspec.Struct):
    data: list[Record]


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "explain",
        help="why a request went where it went, and its timeline",
        description="Show the decision and the timeline of a request; without an id, list recent ones.",
        epilog="examples:\n  baton explain\n  baton explain REQUEST_ID\n  baton explain REQUEST_ID --json -\n"
        "  baton explain --export last.jsonl      then: baton replay last.jsonl --policy dynamo-kv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("request_id", nargs="?", help="the answer's x-request-id header")
    command.add_argument(
        "--export", metavar="FILE", type=Path, help="write the ended requests as a trace for baton replay"
    )
    add_gateway(command)
    add_json(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    gateway = GatewayClient.of(options)
    try:
        if options.request_id is None:
            return _list(gateway, options)
        text = gateway.get(f"/baton/v1/requests/{options.request_id}")
    finally:
        gateway.close()
    if write_json(options.json, msgspec.Raw(text)):
        return 0
    for line in tell(msgspec.json.decode(text, type=Record)):
        print(line)
    return 0


def _list(gateway: GatewayClient, options: argparse.Namespace) -> int:
    text = gateway.get("/baton/v1/requests")
    if write_json(options.json, msgspec.Raw(text)):
        return 0
    records = msgspec.json.decode(text, type=_Recent).data
    if options.export is not None:
        written = write_measured(options.export, [asked for r in records if (asked := _measured(r))])
        print(f"{written} ended requests written to {options.export}")
        return 0
    rows = [_row(record) for record in records[:RECENT_SHOWN]]
    columns = ("request", "path", "prompt tok", "cached tok", "output tok", "TTFT ms", "TPOT ms", "state")
    for line in table(columns, rows):
        print(line)
    return 0


def _measured(record: Record) -> MeasuredRequest | None:
    """Take of an ended request what can be replayed; None of one that was not served to its end."""
    ttft_s = record.at_s("first_token")
    if record.finish not in ("stop", "length") or ttft_s is None:
        return None
    return MeasuredRequest(
        timestamp=record.accepted_s * 1e3,
        input_length=record.prompt_tokens,
        output_length=record.output_tokens,
        hash_ids=record.prefix_ids,
        ttft_ms=ttft_s * 1e3,
        tpot_ms=None if record.tpot_s is None else record.tpot_s * 1e3,
    )


def _row(record: Record) -> tuple[str, ...]:
    ttft_s, tpot_s = record.at_s("first_token"), record.tpot_s
    return (
        record.request_id,
        record.placement.path if record.placement else "-",
        str(record.prompt_tokens),
        "-" if record.cached_tokens is None else str(record.cached_tokens),
        str(record.output_tokens),
        "-" if ttft_s is None else f"{ttft_s * 1e3:.1f}",
        "-" if tpot_s is None else f"{tpot_s * 1e3:.2f}",
        record.finish or "running",
    )
