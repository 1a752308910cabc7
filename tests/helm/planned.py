"""A release whose planner sizes its pools at a Kubernetes API server, and the story that is told of it.

Comes in: an API server that holds the release's Deployments and Lease. Goes out: what the planner's process
did about demands, a hold, and what became of clients meanwhile. Real NATS, a gateway, workers with simulated
engines and the planner run as the chart renders them; `tests.helm.controllers` plays the rest of Kubernetes.
Invariant: every question is answered at the first try, with the words of an undisturbed run.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from services.domain.worker import Phase
from tests.helm.chart import RELEASE, Manifest, merged, render, values_of
from tests.helm.controllers import MERGE, POLL_S, Controllers
from tests.helm.kubelet import ACCOUNT, Cluster, running
from tests.live.cluster import SeenCluster
from tests.planner.asked import LONG_ANSWERS, LONG_PROMPTS, NOTHING, THREE_WORKERS, Asked, Demand
from tests.planner.gateway_page import GatewayPage

PLANNED = {
    "poolDefaults": {"engine": "simulated"},
    "planner": {
        "enabled": True,
        "pools": [{"name": "prefill"}, {"name": "decode"}],
        "settings": THREE_WORKERS,
    },
    "settings": {"router": {"early_rejection": False}},
}
"""Over the laptop's values."""
PLANNER = f"{RELEASE}-planner"
WORKLOADS = {phase: f"{RELEASE}-{phase.value}" for phase in Phase}
NEWS_S = 60.0
LOOKS = 4
"""So many decisions show that nothing is done."""
STREAMS = 2

Sizes = dict[Phase, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """An API server.

    Attributes:
        people: a client that may do everything.
        url: for the planner.
        namespace: of the release.
        account: files of the planner's service account.
    """

    people: httpx.AsyncClient
    url: str
    namespace: str
    account: Mapping[str, str]

    @property
    def deployments(self) -> str:
        """Path of the release's Deployments."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"


def manifests(api: Api, page_url: str) -> list[Manifest]:
    """Render the release; its planner reads a page instead of the gateway's own, and finds the API server."""
    target = {
        "namespace": api.namespace,
        "api_url": api.url,
        "token_file": f"{ACCOUNT}/token",
        "ca_file": f"{ACCOUNT}/ca.crt",
    }
    made = render(merged(values_of("laptop"), PLANNED))
    for manifest in made:
        if "planner.json" in manifest.get("data", {}):
            settings = json.loads(manifest["data"]["planner.json"])
            assert settings["observe"]["source"] == "gateways"
            settings["observe"]["urls"] = [page_url]
            settings["target"] |= target
            manifest["data"]["planner.json"] = json.dumps(settings)
    return made


class Stage:
    """The release while it runs."""

    def __init__(
        self, api: Api, cluster: Cluster, http: httpx.AsyncClient, asked: Asked, controllers: Controllers
    ) -> None:
        """Take what runs."""
        self._api = api
        self._cluster = cluster
        self._http = http
        self._asked = asked
        self._controllers = controllers
        (planner,) = cluster.of("planner")
        self._journal = planner.folder / "tmp" / "decisions.jsonl"

    async def demand(self, demand: Demand) -> None:
        """Have the planner see another demand."""
        await asyncio.to_thread(self._asked.take, demand)

    async def hold(self, phase: Phase, *, held: bool) -> None:
        """Hold a pool as a person does, or let it go."""
        change = {"metadata": {"annotations": {"baton/hold": "true" if held else None}}}
        path = f"{self._api.deployments}/{WORKLOADS[phase]}"
        (await self._api.people.patch(path, json=change, headers=MERGE)).raise_for_status()

    async def becomes(self, *, sizes: Sizes, roles: Sizes) -> None:
        """Wait until Deployments have these sizes and the gateway knows so many workers of each role.

        Raises:
            AssertionError: it does not come.
        """
        seen: tuple[Sizes, Sizes] | None = None
        try:
            async with asyncio.timeout(NEWS_S):
                while seen != (sizes, roles):
                    await asyncio.sleep(POLL_S)
                    seen = await self._sizes(), await self._roles()
        except TimeoutError:
            raise AssertionError(f"{seen} did not become {(sizes, roles)}") from None

    async def has_ended(self, pods: Mapping[str, int]) -> None:
        """Wait until these pods and no others ended, with these exit codes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEWS_S):
                while self._controllers.ended.keys() != pods.keys():  # noqa: ASYNC110 - processes end
                    await asyncio.sleep(POLL_S)
        assert self._controllers.ended == pods

    async def reasons(self, count: int) -> list[str]:
        """Wait for so many decisions from now on; what was said with each."""
        past = len(self._decisions())
        async with asyncio.timeout(NEWS_S):
            while len(self._decisions()) < past + count:  # noqa: ASYNC110 - another process decides
                await asyncio.sleep(POLL_S)
        return self._decisions()[past:]

    async def ask(self, text: str) -> str:
        """Ask the gateway's Service one question, at the first try; returns the answer."""
        body = {"model": "baton-tiny", "prompt": text, "max_tokens": 300, "temperature": 0}
        with self._cluster.service(f"{RELEASE}-gateway", "http") as url:
            answer = await self._http.post(f"{url}/v1/completions", json=body)
        said = answer.raise_for_status().json()
        assert said["usage"]["completion_tokens"] > 0
        return str(said["choices"][0]["text"])

    async def _sizes(self) -> Sizes:
        return {
            phase: (await self._api.people.get(f"{self._api.deployments}/{name}")).json()["spec"]["replicas"]
            for phase, name in WORKLOADS.items()
        }

    async def _roles(self) -> Sizes:
        with self._cluster.service(f"{RELEASE}-gateway", "http") as url:
            answer = await self._http.get(f"{url}/baton/v1/cluster")
        workers = msgspec.json.decode(answer.content, type=SeenCluster).workers
        return dict(Counter(Phase(phase) for worker in workers for phase in worker.phases))

    def _decisions(self) -> list[str]:
        text = self._journal.read_text(encoding="utf-8") if self._journal.exists() else ""
        *whole, _on_its_way = text.split("\n")
        return ["; ".join(json.loads(line)["look"]["decision"]["reasons"]) for line in whole]


@asynccontextmanager
async def playing(folder: Path, api: Api) -> AsyncIterator[Stage]:
    """Run the release until the block ends."""
    asked = Asked()
    page = GatewayPage(asked)
    try:
        secrets = {PLANNER: api.account}
        async with running(manifests(api, page.url), folder, secrets) as cluster:
            controllers = Controllers(api.people, cluster, api.deployments, WORKLOADS.values())
            async with httpx.AsyncClient(timeout=NEWS_S) as http, asyncio.TaskGroup() as group:
                following = group.create_task(controllers.run())
                yield Stage(api, cluster, http, asked, controllers)
                following.cancel()
            assert set((await cluster.stop()).values()) == {0}
    finally:
        page.close()


def workers(prefill: int, decode: int) -> Sizes:
    """Sizes of both pools."""
    return {Phase.PREFILL: prefill, Phase.DECODE: decode}


async def story(stage: Stage, say: Callable[[str], None]) -> int:
    """Scale, turn, hold, turn back, drain, while questions come; returns how many were answered."""
    questions = [f"Question {i}: what is prefill? " * 20 for i in range(STREAMS)]
    truth = [await stage.ask(question) for question in questions]
    over = asyncio.Event()

    async def ask(place: int) -> int:
        count = 0
        while not over.is_set():
            assert await stage.ask(questions[place]) == truth[place]
            count += 1
        return count

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask(place)) for place in range(STREAMS)]
        await stage.becomes(sizes=workers(1, 1), roles=workers(1, 1))
        await stage.demand(LONG_ANSWERS)
        await stage.becomes(sizes=workers(1, 2), roles=workers(1, 2))
        say("long answers: the Deployment of decode workers was scaled to 2")
        await stage.demand(LONG_PROMPTS)
        await stage.becomes(sizes=workers(1, 2), roles=workers(2, 1))
        say("long prompts: a decode worker was turned, no Deployment was written")
        await stage.hold(Phase.DECODE, held=True)
        await stage.demand(LONG_ANSWERS)
        reasons = await stage.reasons(LOOKS)
        assert "decode of kind default is held by hand" in reasons[-1]
        await stage.becomes(sizes=workers(1, 2), roles=workers(2, 1))
        say(f"long answers while held: {LOOKS} decisions, nobody was turned")
        await stage.hold(Phase.DECODE, held=False)
        await stage.becomes(sizes=workers(1, 2), roles=workers(1, 2))
        say("let go: the worker was turned back")
        await stage.demand(NOTHING)
        await stage.becomes(sizes=workers(1, 1), roles=workers(1, 1))
        await stage.has_ended({f"{WORKLOADS[Phase.DECODE]}-1": 0})
        say("no demand: the Deployment of decode workers was scaled to 1, and one drained")
        over.set()
    return sum(one.result() for one in asking)
