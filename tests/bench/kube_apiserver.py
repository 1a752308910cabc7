"""A real kube-apiserver and etcd on loopback, for the planner's target and for the chart's objects.

Comes in: paths of both programs. Goes out: a server with an administrator's client, and accounts' tokens.
Invariant: both end with the context, and everything they wrote lies in one temporary folder. Not here: what
is done with it (`bench_kube_apiserver`), where the programs come from (docs/kubernetes.md).
"""

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.helm.chart import Manifest

START_S = 90.0
"""Longest start; a server at first makes its roles and certificates."""
_PLURALS = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}


class KubeApiServer:
    """One server on 127.0.0.1."""

    def __init__(self, api: Path, etcd: Path, *, port: int, folder: Path) -> None:
        """Prepare; `start` starts.

        Args:
            api: the program kube-apiserver.
            etcd: the program etcd.
            port: of the API; the two above it are etcd's.
            folder: for data, keys and logs.
        """
        self._api, self._etcd, self._port, self._folder = api, etcd, port, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"https://127.0.0.1:{port}"
        self.client = self.client_of("admin-token")

    @property
    def ca_file(self) -> Path:
        """Its own certificate, which signs itself."""
        return self._folder / "certs" / "apiserver.crt"

    def client_of(self, token: str) -> httpx.AsyncClient:
        """Make a client with a token."""
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, verify=False, headers=headers, timeout=120.0)  # noqa: S501

    async def start(self) -> None:
        """Start etcd unless it runs, and the API server; returns when it is ready."""
        folder = self._folder
        if "etcd" not in self._running:
            key = folder / "account.key"
            made = ["openssl", "genrsa", "-out", str(key), "2048"]
            await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
            (folder / "tokens.csv").write_text("admin-token,admin,1,system:masters\n", encoding="utf-8")
            client, peer = (f"http://127.0.0.1:{self._port + more}" for more in (1, 2))
            self._run(
                "etcd", str(self._etcd), f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            )  # fmt: skip
        self._run(
            "api", str(self._api), f"--etcd-servers=http://127.0.0.1:{self._port + 1}",
            "--bind-address=127.0.0.1", f"--secure-port={self._port}", f"--cert-dir={folder / 'certs'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={folder / 'account.key'}",
            f"--service-account-key-file={folder / 'account.key'}", "--authorization-mode=RBAC",
            f"--token-auth-file={folder / 'tokens.csv'}", "--service-cluster-ip-range=10.0.0.0/24",
        )  # fmt: skip
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await self.client.get("/readyz")).is_success:
                        return
                await asyncio.sleep(0.5)

    def stop(self, name: str) -> None:
        """End one program as a crash would: kube-apiserver's own end waits for every watch."""
        process = self._running.pop(name)
        process.kill()
        process.wait(30.0)

    async def close(self) -> None:
        """End both."""
        for name in list(self._running):
            self.stop(name)
        await self.client.aclose()

    def _run(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(command, stdout=log, stderr=log)

    async def make(self, manifest: Manifest, namespace: str) -> httpx.Response:
        """Make an object."""
        api, kind = manifest["apiVersion"], manifest["kind"]
        plural = _PLURALS.get(kind, kind.lower() + "s")
        scope = "" if kind == "PriorityClass" else f"/namespaces/{namespace}"
        root = "/api/v1" if api == "v1" else f"/apis/{api}"
        return await self.client.post(f"{root}{scope}/{plural}", json=manifest)

    async def token_of(self, account: str, namespace: str) -> str:
        """Ask for a token of a service account, as the kubelet does for a pod."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await self.client.post(path, json=body)
        token: str = answer.raise_for_status().json()["status"]["token"]
        return token


@contextlib.asynccontextmanager
async def serving(api: Path, etcd: Path, *, port: int) -> AsyncIterator[KubeApiServer]:
    """Run a server in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="kube-apiserver-") as folder:
        server = KubeApiServer(api, etcd, port=port, folder=Path(folder))
        try:
            await server.start()
            yield server
        finally:
            await server.close()
