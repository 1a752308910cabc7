"""The commands, arguments, environments and files of rendered manifests are run as they stand, and serve."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from planner.process_settings import PlannerProcessSettings
from services.gateway.process_settings import GatewayProcessSettings
from services.router.process_settings import RouterProcessSettings
from services.runtime.settings import override, parse, read_yaml
from services.worker.settings import WorkerProcessSettings
from tests.bus.certificates import Authority
from tests.helm.chart import VALUES, config_of, expand, merged, pods, render, rendered, values_of
from tests.helm.kubelet import SETTINGS, Cluster, Secrets, running

SIMULATED: dict[str, Any] = {"poolDefaults": {"engine": "simulated", "simulated": {"speedup": 20}}}
"""Engines that need no weights and little of this machine; all else stays what the values say."""

HARDENED: dict[str, Any] = {
    "nats": {"replicas": 3, "password": {"name": "baton-nats", "key": "password"}},
    "router": {"enabled": True},
    "tls": {
        "edge": {"enabled": True, "secretName": "edge", "clientSecretName": "clients"},
        "links": {"enabled": True, "secretName": "links"},
        "nats": {"enabled": True, "secretName": "nats"},
    },
    "pools": [{"name": "mixed", "role": "both", "replicas": 2}],
    "gateway": {"replicas": 2},
    "settings": {"bus": {"request_timeout_s": 10.0}},
}
"""What production adds, at the size of a test."""

REPLACED = (("nats", 3), ("worker", 1), ("router", 1), ("gateway", 1))
"""How many pods of each part are replaced, one after another: of NATS all, as a rolling update does."""

SILENT = "gives no answer"
"""What a gateway logs of a standalone router that it cannot ask."""

PROGRAMS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewayProcessSettings,
    "router": RouterProcessSettings,
    "worker": WorkerProcessSettings,
    "planner": PlannerProcessSettings,
}


@pytest.mark.parametrize("name", VALUES)
def test_programs_take_the_files_that_are_rendered_for_them(name: str, tmp_path: Path) -> None:
    """Each settings file, with what its pod sets over it, is one that the program starts with."""
    manifests = rendered(name)
    checked = set()
    for pod in pods(manifests):
        container = pod.template["spec"]["containers"][0]
        if container["command"] != ["baton"]:
            continue
        program, file, *settings = container["args"]
        path = tmp_path / "settings.json"
        inside = Path(file.removeprefix("--settings="))
        path.write_text(config_of(manifests, pod, SETTINGS)[inside.name], encoding="utf-8")
        environment = {"POD_NAME": "pod-0", "POD_IP": "10.0.0.1"}
        environment |= {"LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "pod-0.pods"}
        values = override(read_yaml(path), [expand(s, environment).removeprefix("--set=") for s in settings])
        parse(PROGRAMS[program], values, source=pod.owner)
        checked.add(program)
    assert {"gateway", "worker"} <= checked


async def _asks(cluster: Cluster, text: str, trust: ssl.SSLContext) -> None:
    """Ask the gateways' Service one question; the first try must be answered."""
    http = openai.DefaultAsyncHttpxClient(verify=trust)
    with cluster.service("baton-gateway", "http") as url:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client:
            answer = await client.chat.completions.create(
                model="baton-tiny", messages=[{"role": "user", "content": text}], max_tokens=8, temperature=0
            )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def _asks_until(cluster: Cluster, over: asyncio.Event, trust: ssl.SSLContext) -> int:
    """Ask one question after another; returns how many were answered, all of them."""
    count = 0
    while not over.is_set():
        await _asks(cluster, f"Question {count}: what is prefill? " * 20, trust)
        count += 1
    return count


@pytest.mark.timeout(300)  # nine starts of a Python process, on whatever machine this is
async def test_hardened_values_serve_through_an_upgrade(tmp_path: Path) -> None:
    """Three NATS servers with login, all encrypted; all and others replaced; all questions answered."""
    manifests = render(merged(merged(values_of("laptop"), SIMULATED), HARDENED))
    authority, members = Authority(tmp_path, "authority"), Authority(tmp_path, "members")
    secrets = _secrets(authority, members, Cluster(manifests, tmp_path, {}))
    trust = ssl.create_default_context(cafile=str(authority.ca_file))
    trust.load_cert_chain(*members.issue("client"))
    async with running(manifests, tmp_path, secrets) as cluster:
        await _asks(cluster, "Who decides?", trust)
        assert not any(SILENT in pod.log() for pod in cluster.of("gateway")), "the router was not asked"
        over = asyncio.Event()
        asking = asyncio.create_task(_asks_until(cluster, over, trust))
        for component, count in REPLACED:
            for pod in cluster.of(component)[:count]:
                await cluster.replace(pod)
        over.set()
        assert await asking >= len(REPLACED)
        assert set((await cluster.stop()).values()) == {0}


def _secrets(authority: Authority, members: Authority, cluster: Cluster) -> Secrets:
    """What Secrets hold: pods are called by their addresses here, and so certificates name these."""

    def pair(name: str, *hosts: str) -> dict[str, str]:
        certificate, key = authority.issue(name, *hosts)
        read = {"tls.crt": Path(certificate), "tls.key": Path(key), "ca.crt": authority.ca_file}
        return {name: path.read_text(encoding="utf-8") for name, path in read.items()}

    return {
        "baton-nats": {"password": "a-password"},
        "clients": {"ca.crt": members.ca_file.read_text(encoding="utf-8")},
        "edge": pair("edge", *(pod.address for pod in cluster.of("gateway"))),
        "links": pair("links", "workers.baton.internal"),
        "nats": pair("nats", *(pod.address for pod in cluster.of("nats"))),
    }
