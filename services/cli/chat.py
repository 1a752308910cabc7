"""`baton chat`: ask one question, or talk."""

import argparse
import sys

import msgspec

from services.cli.api import GatewayClient, add_gateway
from services.cli.generate import add_sampling, sampling_body
from services.cli.output import stderr
from services.domain.errors import ServingError


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    error: dict[str, object] | None = None


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "chat",
        help="ask one question, or talk",
        description="Ask a running cluster a question; without one, talk until Ctrl-D.",
        epilog='examples:\n  baton chat "What is prefill?"\n  baton chat',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("question", nargs="?", help="one question; none starts a conversation")
    command.add_argument("--system", help="system message")
    add_sampling(command)
    add_gateway(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    gateway = GatewayClient.of(options)
    messages: list[dict[str, str]] = []
    if options.system:
        messages.append({"role": "system", "content": options.system})
    try:
        body = sampling_body(options, gateway)
        if options.question is not None:
            messages.append({"role": "user", "content": options.question})
            return 0 if _answer(gateway, body, messages) is not None else 1
        return _talk(gateway, body, messages)
    finally:
        gateway.close()


def _talk(gateway: GatewayClient, body: dict[str, object], messages: list[dict[str, str]]) -> int:
    interactive = sys.stdin.isatty()
    while True:
        try:
            question = input("you: " if interactive else "")
        except (EOFError, KeyboardInterrupt):
            return 0
        if not question.strip():
            continue
        messages.append({"role": "user", "content": question})
        try:
            answer = _answer(gateway, body, messages)
        except ServingError as error:
            stderr.print(f"error: {error}", markup=False)
            answer = None
        if answer is None:
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": answer})


def _answer(gateway: GatewayClient, body: dict[str, object], messages: list[dict[str, str]]) -> str | None:
    texts: list[str] = []
    request_id = ""
    for piece in gateway.stream("/v1/chat/completions", {**body, "messages": messages}):
        request_id = piece.request_id
        event = msgspec.json.decode(piece.data, type=_Event)
        if event.error is not None:
            stderr.print(f"\nerror: {event.error.get('message')}", markup=False)
            return None
        for choice in event.choices:
            text = choice.delta.content or ""
            texts.append(text)
            print(text, end="", flush=True)
    print()
    stderr.print(f"[dim]baton explain {request_id}[/dim]")
    return "".join(texts)
