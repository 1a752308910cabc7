"""Runs the pods of rendered manifests as processes of this machine: a kubelet for tests.

Comes in: manifests, what their Secrets hold. Goes out: processes started with the command, the arguments, the
environment and the files that the manifests give them, and the answers to their probes.
What a pod's network and mounts do is done by text: each pod has an address of 127.0.0.0/8 of its own, at
which it listens where a pod would listen on all of its interfaces, names of the cluster are addresses, and a
path below a mount is one below a folder of the pod. Nothing else is changed.
Invariant: what was started is over when the block ends.
"""

import asyncio
import contextlib
import itertools
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.helm.chart import Manifest, Pod, config_of, expand, pods
from tests.house.tree import ROOT

MODEL_IN_IMAGE = "/opt/baton/models/baton-tiny"
SHIPPED_MODEL = ROOT / "services" / "tinymodel" / "weights"
SETTINGS = "/etc/baton/settings"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where pods that may speak to the API server find who they are."""
EVERYWHERE = "0.0.0.0"
POLL_S = 0.05
START_S = 60.0
"""Longest start of one pod of a simulated cluster."""
LOG_CHARS = 2000
"""Shown of each pod's log when something fails."""

Secrets = Mapping[str, Mapping[str, str]]


@dataclass(slots=True, kw_only=True)
class RunningPod:
    """One pod."""

    name: str
    pod: Pod
    address: str
    folder: Path
    process: asyncio.subprocess.Process | None = None
    leaving: bool = False
    """Services no longer lead to it."""
    caller_count: int = 0
    """Callers that a Service led to it and that are not done."""

    @property
    def container(self) -> Manifest:
        """Its one container."""
        (container,) = self.pod.template["spec"]["containers"]
        found: Manifest = container
        return found

    def port(self, name: str) -> int:
        """Number of a port that the container names."""
        (port,) = [p["containerPort"] for p in self.container["ports"] if p["name"] == name]
        return int(port)

    async def answers(self, http: httpx.AsyncClient, probe: str) -> bool:
        """Ask one of the container's probes once."""
        asked = self.container[probe]["httpGet"]
        url = f"http://{self.address}:{self.port(asked['port'])}{asked['path']}"
        try:
            return (await http.get(url)).is_success
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """What it said so far."""
        file = self.folder / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else "nothing"


class Cluster:
    """All pods of a release."""

    def __init__(self, manifests: list[Manifest], folder: Path, secrets: Secrets) -> None:
        """Lay out the pods; nothing runs yet.

        Args:
            manifests: of the release.
            folder: an empty one.
            secrets: what the Secrets hold that the manifests name, and service accounts by their names.
        """
        self._manifests = manifests
        self._secrets = secrets
        self._folder = folder
        self._numbers = itertools.count(1)
        self.pods = [self._laid(pod, index) for pod in pods(manifests) for index in range(pod.replicas)]
        self._names = dict(self._resolved())

    def of(self, component: str) -> list[RunningPod]:
        """Pods of one part."""
        return [p for p in self.pods if _label(p.pod.template, "component") == component]

    @contextmanager
    def service(self, name: str, port: str) -> Iterator[str]:
        """Lead a caller through a Service to one of its pods, for as long as the block lasts.

        Yields:
            URL of the pod, at the port that the Service leads to.
        """
        (found,) = [m for m in self._manifests if m["kind"] == "Service" and m["metadata"]["name"] == name]
        (led,) = [p for p in found["spec"]["ports"] if p["name"] == port]
        chosen = found["spec"]["selector"].items()
        pod = next(
            p for p in self.pods if chosen <= p.pod.template["metadata"]["labels"].items() and not p.leaving
        )
        pod.caller_count += 1
        try:
            yield f"{led['appProtocol']}://{pod.address}:{pod.port(led['targetPort'])}"
        finally:
            pod.caller_count -= 1

    async def start(self) -> None:
        """Start every pod, as Kubernetes does: all at once; return when all are ready.

        Raises:
            AssertionError: one ended instead, or was not ready in time; with what it said.
        """
        for pod in self.pods:
            await self._start(pod)
        await self._are_ready(self.pods)

    async def add(self, pod: Pod, index: int) -> RunningPod:
        """Start one more pod of a template."""
        added = self._laid(pod, index)
        self.pods.append(added)
        await self._start(added)
        return added

    async def replace(self, pod: RunningPod) -> None:
        """End one pod and start it again, as an upgrade does; return when it is ready."""
        assert await self.end(pod) == 0, pod.log()
        await self._start(pod)
        await self._are_ready([pod])
        pod.leaving = False

    async def end(self, pod: RunningPod) -> int:
        """End one pod as the kubelet does; returns its exit code.

        Raises:
            TimeoutError: it outlived its grace period.
        """
        assert pod.process is not None
        pod.leaving = True
        hook = pod.container.get("lifecycle", {}).get("preStop", {})
        if "exec" in hook:
            process = await asyncio.create_subprocess_exec(
                *self._local(pod, hook["exec"]["command"]), env=self._environment(pod)
            )
            assert await process.wait() == 0, hook
        if "sleep" in hook:  # what it is for: those who were led here before are in
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(hook["sleep"]["seconds"]):
                    while pod.caller_count:  # noqa: ASYNC110 - counts set no event
                        await asyncio.sleep(POLL_S)
        with contextlib.suppress(ProcessLookupError):
            pod.process.terminate()
        async with asyncio.timeout(pod.pod.template["spec"]["terminationGracePeriodSeconds"]):
            return await pod.process.wait()

    async def stop(self) -> dict[str, int]:
        """End every pod as the kubelet does: the hook, SIGTERM, and its grace period.

        Returns:
            Exit codes by pod.

        Raises:
            TimeoutError: a pod outlived its grace period.
        """
        return {pod.name: await self.end(pod) for pod in reversed(self.pods)}

    async def kill(self) -> None:
        """End what still runs, now."""
        for pod in self.pods:
            if pod.process is not None and pod.process.returncode is None:
                pod.process.kill()
                await pod.process.wait()

    # -- one pod --------------------------------------------------------------------------------

    def _laid(self, pod: Pod, index: int) -> RunningPod:
        block = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        name = f"{pod.owner.partition('/')[2]}-{index}"
        address = f"{block}.{next(self._numbers)}"
        return RunningPod(name=name, pod=pod, address=address, folder=self._folder / name)

    def _resolved(self) -> Iterator[tuple[str, str]]:
        """Names of the cluster: pods behind a headless Service, and Services."""
        for service in [m for m in self._manifests if m["kind"] == "Service"]:
            name, spec = service["metadata"]["name"], service["spec"]
            for pod in self.pods:
                if spec["selector"].items() <= pod.pod.template["metadata"]["labels"].items():
                    yield (f"{pod.name}.{name}" if spec.get("clusterIP") == "None" else name), pod.address

    async def _start(self, pod: RunningPod) -> None:
        self._mount(pod)
        command = self._local(pod, [*pod.container["command"], *pod.container["args"]])
        with (pod.folder / "log").open("ab") as log:
            pod.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                cwd=pod.folder,
                env=self._environment(pod),
            )

    async def _are_ready(self, pods: Iterable[RunningPod]) -> None:
        async with httpx.AsyncClient() as http:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for pod in pods:
                    await self._passes(http, pod, probe)

    async def _passes(self, http: httpx.AsyncClient, pod: RunningPod, probe: str) -> None:
        assert pod.process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while pod.process.returncode is None:
                    if await pod.answers(http, probe):
                        return
                    await asyncio.sleep(POLL_S)
        raise AssertionError(f"{pod.name} does not pass its {probe}:\n{pod.log()}")

    def _environment(self, pod: RunningPod) -> dict[str, str]:
        """The container's environment and, of this machine, where programs are."""
        found = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        fields = {"metadata.name": pod.name, "status.podIP": pod.address}
        for entry in pod.container["env"]:
            source = entry.get("valueFrom", {})
            if "fieldRef" in source:
                found[entry["name"]] = fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                wanted = source["secretKeyRef"]
                found[entry["name"]] = self._secrets[wanted["name"]][wanted["key"]]
            else:
                found[entry["name"]] = self._here(pod, entry["value"])
        return found

    def _mount(self, pod: RunningPod) -> None:
        pod.folder.mkdir(exist_ok=True)
        volumes = {volume["name"]: volume for volume in pod.pod.template["spec"].get("volumes", [])}
        for mount in pod.container["volumeMounts"]:
            folder = pod.folder / mount["mountPath"].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            secret = volumes.get(mount["name"], {}).get("secret")
            if secret is not None:
                for key, text in self._secrets[secret["secretName"]].items():
                    (folder / key).write_text(text, encoding="utf-8")
        if pod.pod.template["spec"]["automountServiceAccountToken"]:
            (account := Path(f"{pod.folder}{ACCOUNT}")).mkdir(parents=True, exist_ok=True)
            for key, text in self._secrets.get(pod.pod.template["spec"]["serviceAccountName"], {}).items():
                (account / key).write_text(text, encoding="utf-8")
        for name, text in config_of(self._manifests, pod.pod, SETTINGS).items():
            (pod.folder / SETTINGS.lstrip("/") / name).write_text(self._here(pod, text), encoding="utf-8")

    def _local(self, pod: RunningPod, command: list[str]) -> list[str]:
        environment = self._environment(pod)
        return [self._here(pod, expand(part, environment)) for part in command]

    def _here(self, pod: RunningPod, text: str) -> str:
        """Say a text of the pod as this machine understands it: addresses, names, paths."""
        names = {EVERYWHERE: pod.address} | self._names
        paths = {MODEL_IN_IMAGE: str(SHIPPED_MODEL), ACCOUNT: f"{pod.folder}{ACCOUNT}"}
        paths |= {m["mountPath"]: f"{pod.folder}{m['mountPath']}" for m in pod.container["volumeMounts"]}
        text = re.sub(rf'(?<![\w.-])({_any_of(names)})(?=[:"]|$)', lambda found: names[found[0]], text)
        return re.sub(rf'(?<![^"=])({_any_of(paths)})(?=[/"]|$)', lambda found: paths[found[0]], text)


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))


def _label(template: Manifest, name: str) -> str:
    return str(template["metadata"]["labels"][f"app.kubernetes.io/{name}"])


@asynccontextmanager
async def running(manifests: list[Manifest], folder: Path, secrets: Secrets) -> AsyncIterator[Cluster]:
    """Run all pods of a release until the block ends.

    Args:
        manifests: of the release.
        folder: an empty one.
        secrets: what the Secrets hold that the manifests name.
    """
    cluster = Cluster(manifests, folder, secrets)
    try:
        await cluster.start()
        yield cluster
    except Exception as error:
        for pod in cluster.pods:
            error.add_note(f"{pod.name} said:\n{pod.log()[-LOG_CHARS:]}")
        raise
    finally:
        await cluster.kill()
