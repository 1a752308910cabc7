"""`baton demo`: a cluster, a real request through the official OpenAI client, and how it went.

Also what `make run` does. With a terminal the cluster stays up to play with; without, it stops.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from random import Random
from typing import TYPE_CHECKING

import msgspec

from services.cli.api import GatewayClient
from services.cli.output import console
from services.cli.records import Record
from services.cli.status import Cluster
from services.cli.story import tell
from services.cli.up import add_cluster_options, announce, read_settings, until_stopped, with_cluster
from services.cluster.local import LocalCluster
from services.cluster.settings import ClusterSettings
from services.domain.errors import ConfigurationInvalid, InternalFault
from services.runtime.lifecycle import StopSignal
from services.runtime.tasks import first_of
from services.tinymodel import conversations

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

BACKGROUND_STREAMS = 8
BACKGROUND_TOKENS = 1200
ANSWER_TOKENS = 64
EXCHANGES = 16
POLL_S = 0.1
TIMEOUT_S = 120.0

_QUESTION = "What is prefill?"
_STORY_QUESTION = "Tell me a story about a fox."


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "demo",
        help="bring a cluster up, serve a real request, show how it went",
        description="Start a cluster, keep its decode worker busy, send one long prompt through the official "
        "openai client and show the decision and the timeline. On a terminal the cluster then stays up.",
        epilog="examples:\n  baton demo\n  baton demo --engine simulated --prefill 4 --decode 4 < /dev/null",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        import openai  # noqa: F401  (only looked for; imported where it is used)
    except ImportError:
        raise ConfigurationInvalid(
            key="openai", message="the demo talks through the official client: pip install openai"
        ) from None
    settings = read_settings(options)
    edge = settings.edge
    if edge.tls is not None:
        raise ConfigurationInvalid(key="edge.tls", message="edge.tls: the demo asks itself, in the clear")
    edge = msgspec.structs.replace(
        edge,
        http_port=_free_or_any(edge.host, edge.http_port),
        grpc_port=_free_or_any(edge.host, edge.grpc_port),
    )
    # A demo that mends itself behind the curtain would show something else than what happened.
    supervision = msgspec.structs.replace(settings.supervision, restarts_max=0)
    settings = msgspec.structs.replace(settings, edge=edge, supervision=supervision)
    return asyncio.run(with_cluster(lambda: LocalCluster(settings), _show))


def _free_or_any(host: str, port: int) -> int:
    """The port when it is free, else 0: a demo should not fail because another cluster runs."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return 0
    return port


async def _show(cluster: LocalCluster, stop: StopSignal) -> int:
    announce(cluster, f"  logs        {cluster.folder}")
    showing = asyncio.ensure_future(_requests(cluster, cluster.settings))
    asked = asyncio.ensure_future(stop.asked.wait())
    await first_of(showing, asked)
    asked.cancel()
    if not showing.done():
        showing.cancel()
        await asyncio.wait({showing})
        return 0
    showing.result()
    if not sys.stdin.isatty():
        return 0
    console.print("\nthe cluster stays up; Ctrl-C stops it")
    return await until_stopped(cluster, stop)


async def _requests(cluster: LocalCluster, settings: ClusterSettings) -> None:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(
        base_url=f"{cluster.http_url}/v1", api_key="unused", timeout=TIMEOUT_S, max_retries=0
    )
    async with client:
        model = settings.model.name
        console.print(f"\n[bold]1.[/bold] {BACKGROUND_STREAMS} stories keep the decode worker busy …")
        first_tokens = [asyncio.Event() for _ in range(BACKGROUND_STREAMS)]
        background = [asyncio.ensure_future(_story(client, model, started)) for started in first_tokens]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for started in first_tokens:
                    await started.wait()
                await _until_seen(cluster.http_url)
            await _long_prompt(cluster, client, model)
        finally:
            for story in background:
                story.cancel()
            await asyncio.gather(*background, return_exceptions=True)


async def _story(client: "AsyncOpenAI", model: str, started: asyncio.Event) -> None:
    try:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": _STORY_QUESTION}],
            max_tokens=BACKGROUND_TOKENS,
            temperature=1.0,
            stream=True,
            extra_body={"ignore_eos": True, "baton": {"prefill": "local"}},
        )
        async for _ in stream:
            started.set()
    finally:
        started.set()


async def _until_seen(url: str) -> None:
    """Wait until the workers' statuses show the stories: what the router does not know it cannot spare."""
    with contextlib.closing(GatewayClient(url)) as gateway:
        while True:
            answer = await asyncio.to_thread(gateway.get, "/baton/v1/cluster")
            workers = msgspec.json.decode(answer, type=Cluster).workers
            if sum(worker.load.running_count for worker in workers) >= BACKGROUND_STREAMS:
                return
            await asyncio.sleep(POLL_S)


async def _long_prompt(cluster: LocalCluster, client: "AsyncOpenAI", model: str) -> None:
    """Ask behind a long context: by itself the router sends it to the prefill worker, or we ask for it."""
    console.print("[bold]2.[/bold] a long prompt arrives; its answer, token by token:\n")
    for prefill in ("auto", "remote"):
        request_id = await _ask(client, model, prefill)
        record = await asyncio.to_thread(_record, cluster.http_url, request_id)
        remote = record.handoff is not None
        if remote or cluster.settings.pools.prefill == 0:
            break
        console.print(
            "\nthe router kept it local (there was nobody to disturb); once more, asking for remote:\n"
        )
    console.print("\n[bold]3.[/bold] why it went where it went, and when what happened:\n")
    for line in tell(record):
        print(f"  {line}".rstrip())


async def _ask(client: "AsyncOpenAI", model: str, prefill: str) -> str:
    answer = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=_long_talk(seed=prefill),
        max_tokens=ANSWER_TOKENS,
        temperature=0.0,
        stream=True,
        extra_body={"baton": {"prefill": prefill}},
    )
    request_id = answer.headers.get("x-request-id")
    if request_id is None:
        raise InternalFault(message="the gateway named no request id")
    console.print(f"  [dim]{_QUESTION}[/dim] ", end="")
    stream: AsyncStream[ChatCompletionChunk] = answer.parse()
    async for chunk in stream:
        for choice in chunk.choices:
            console.print(choice.delta.content or "", end="", markup=False)
    console.print()
    return request_id


def _long_talk(seed: str) -> "list[ChatCompletionMessageParam]":
    """Make up a talk of some thousand tokens that ends in a question; each seed has its own."""
    rng = Random(seed)  # noqa: S311  # drawn to repeat, not to hide
    turns = conversations.draw_conversation(rng, conversations.load_entries(), exchange_count=EXCHANGES)
    messages: list[ChatCompletionMessageParam] = []
    for turn in turns:
        if turn.role == "assistant":
            messages.append({"role": "assistant", "content": turn.text})
        elif turn.role == "user":
            messages.append({"role": "user", "content": turn.text})
    messages.append({"role": "user", "content": _QUESTION})
    return messages


def _record(url: str, request_id: str) -> Record:
    with contextlib.closing(GatewayClient(url)) as gateway:
        return msgspec.json.decode(gateway.get(f"/baton/v1/requests/{request_id}"), type=Record)
