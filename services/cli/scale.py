"""`baton scale`: a person starts, turns, lets go or holds workers of a cluster on this machine."""

import argparse
from http import HTTPStatus

import httpx
import msgspec

from services.cli.output import add_json, table, write_json
from services.domain.errors import ConfigurationInvalid, InternalFault, NotReady
from services.domain.pools import Launched, LaunchOrder
from services.domain.worker import Phase

DEFAULT_URL = "http://127.0.0.1:8002"
TIMEOUT_S = 10.0
_BOTH = "both"
_EXAMPLES = """\
examples:
  baton scale                                what there is
  baton scale prefill=1 decode=3             start workers, or let them drain and go
  baton scale --turn worker-0=decode         another role at once, without a restart: prefill, decode or both
  baton scale --hold prefill                 no planner touches this pool
  baton scale --release prefill
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "scale",
        help="show or change the pools of a cluster on this machine",
        description="Show the pools of a `baton up` whose launcher takes orders (--plan, or the setting "
        "`launcher`), or change them. Workers that go drain first. A planner goes on from what it finds, "
        "so hold a pool that is to stay.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("sizes", nargs="*", metavar="POOL=N", help="prefill=N or decode=N")
    command.add_argument(
        "--turn", action="append", default=[], metavar="WORKER=ROLE", help="prefill, decode or both"
    )
    pools = [phase.value for phase in Phase]
    command.add_argument("--hold", action="append", default=[], choices=pools, help="a pool")
    command.add_argument("--release", action="append", default=[], choices=pools, help="a pool")
    command.add_argument(
        "--url", default=DEFAULT_URL, help=f"launcher, as `baton up` prints it (default: {DEFAULT_URL})"
    )
    add_json(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    order = LaunchOrder(
        sizes={_phase(pool): _count(pool, size) for pool, size in map(_pair, options.sizes)},
        roles={name: _role(role) for name, role in map(_pair, options.turn)},
        holds={Phase(pool): True for pool in options.hold} | {Phase(pool): False for pool in options.release},
    )
    launched = _ask(options.url, None if order == LaunchOrder() else order)
    if not write_json(options.json, launched):
        _show(launched)
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationInvalid(key="scale", message=f"{text!r} is no NAME=VALUE")
    return name, value


def _phase(text: str) -> Phase:
    if text not in tuple(Phase):
        raise ConfigurationInvalid(key="scale", message=f"there is no pool {text!r}: prefill or decode")
    return Phase(text)


def _count(pool: str, text: str) -> int:
    if not text.isdigit():
        raise ConfigurationInvalid(key="scale", message=f"{pool}={text}: how many workers?")
    return int(text)


def _role(text: str) -> tuple[Phase, ...]:
    return tuple(Phase) if text == _BOTH else (_phase(text),)


def _ask(url: str, order: LaunchOrder | None) -> Launched:
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
            answer = (
                http.get("/pools")
                if order is None
                else http.put("/pools", content=msgspec.json.encode(order))
            )
    except httpx.HTTPError as error:
        raise NotReady(
            message=f"no launcher at {url} ({error}): start one with `baton up --plan`, or name it by --url",
            retry_after_s=1.0,
        ) from None
    if answer.status_code == HTTPStatus.BAD_REQUEST:
        raise ConfigurationInvalid(key="scale", message=answer.text)
    try:
        return msgspec.json.decode(answer.raise_for_status().content, type=Launched)
    except (httpx.HTTPStatusError, msgspec.MsgspecError) as error:
        raise InternalFault(message=f"{url} answers as no launcher does: {error}") from None


def _show(launched: Launched) -> None:
    for pool in launched.pools:
        held = ", held by hand" if pool.is_held else ""
        print(
            f"{pool.phase.value}: {pool.ready_count} ready, {len(pool.starting_s)} starting, "
            f"{pool.draining_count} draining{held}"
        )
    rows = [
        (worker.name, "+".join(worker.phases), worker.standing, f"{worker.for_s:.0f}")
        for worker in launched.workers
    ]
    for line in table(("worker", "phases", "state", "for s"), rows):
        print(line)
