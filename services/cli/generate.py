"""`baton generate`: continue a text."""

import argparse
import sys

import msgspec

from services.cli.api import GatewayClient, add_gateway
from services.cli.output import add_json, stderr, write_json


class _Choice(msgspec.Struct):
    text: str
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, object] | None = None
    error: dict[str, object] | None = None


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "generate",
        help="continue a text",
        description="Stream the continuation of a text from a running cluster.",
        epilog='examples:\n  baton generate "Once upon a time"\n  baton generate - < prompt.txt',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("prompt", help="text to continue; - reads standard input")
    add_sampling(command)
    add_gateway(command)
    add_json(command)
    command.set_defaults(run=_run)


def add_sampling(command: argparse.ArgumentParser) -> None:
    """Add the options that say how tokens are chosen and where the prompt is prefilled."""
    command.add_argument("--model", default=None, help="model name (default: the only one served)")
    command.add_argument("--max-tokens", type=int, default=128, metavar="N")
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default)")
    command.add_argument("--seed", type=int, default=None)
    command.add_argument(
        "--prefill", choices=("auto", "local", "remote"), default="auto", help="where the prompt is prefilled"
    )


def sampling_body(options: argparse.Namespace, gateway: GatewayClient) -> dict[str, object]:
    """Make the part of a request body that all calls share."""
    body: dict[str, object] = {
        "model": options.model or only_model(gateway),
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "baton": {"prefill": options.prefill},
    }
    if options.seed is not None:
        body["seed"] = options.seed
    return body


def only_model(gateway: GatewayClient) -> str:
    """Name of the first served model; empty when none is, and the gateway then says so itself."""
    answer = msgspec.json.decode(gateway.get("/v1/models"), type=dict[str, object])
    models = msgspec.convert(answer.get("data", []), list[dict[str, object]])
    return str(models[0]["id"]) if models else ""


def _run(options: argparse.Namespace) -> int:
    gateway = GatewayClient.of(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    texts: list[str] = []
    request_id = ""
    usage: dict[str, object] | None = None
    quiet = options.json is not None and str(options.json) == "-"
    try:
        body = {**sampling_body(options, gateway), "prompt": prompt}
        for piece in gateway.stream("/v1/completions", body):
            request_id = piece.request_id
            event = msgspec.json.decode(piece.data, type=_Event)
            if event.error is not None:
                stderr.print(f"\nerror: {event.error.get('message')}", markup=False)
                return 1
            usage = event.usage or usage
            for choice in event.choices:
                texts.append(choice.text)
                if not quiet:
                    print(choice.text, end="", flush=True)
    finally:
        gateway.close()
    if not write_json(options.json, {"request_id": request_id, "text": "".join(texts), "usage": usage}):
        print()
        stderr.print(f"[dim]baton explain {request_id}[/dim]")
    return 0
