"""What a platform team asks of every pod before it lets a chart in."""

from collections.abc import Iterator

import pytest

from services.bus.settings import MESSAGE_BYTES_MAX
from tests.helm.chart import VALUES, Manifest, Pod, pods, rendered

PLANNER = "baton-planner"
"""The one account with rights, and the only one whose token is mounted."""


def _breaches(pod: Pod) -> Iterator[str]:
    """List what a pod does that it should not."""
    spec = pod.template["spec"]
    identity = spec["securityContext"]
    if not (identity.get("runAsNonRoot") and identity.get("runAsUser", 0) > 0):
        yield "runs as root"
    if identity.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    if spec.get("automountServiceAccountToken") is not False and spec.get("serviceAccountName") != PLANNER:
        yield "holds a token of the Kubernetes API that it does not use"
    if {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in spec.items() if value}:
        yield "shares the node's namespaces"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"mounts the node's {volume['hostPath']}"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} may fill the node"
    for container in pod.containers:
        yield from (f"{container['name']} {breach}" for breach in _breaches_of_container(container))


def _breaches_of_container(container: Manifest) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its image"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get("add"):
        yield "holds capabilities"
    image = container["image"].rpartition("/")[2]
    if (":" not in image and "@" not in image) or image.endswith(":latest"):
        yield f"has an image that changes under its name: {image}"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
        yield "asks for no share of the node"
    if "memory" not in resources.get("limits", {}):
        yield "has no limit of memory"


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_keeps_the_rules(name: str) -> None:
    """No privileges, no root, no token, no writing to the image, bounded memory and disk, fixed images."""
    found = [f"{pod.owner}: {breach}" for pod in pods(rendered(name)) for breach in _breaches(pod)]
    assert not found, "\n".join(found)


def test_a_breach_is_found() -> None:
    """The rules can fail, each of them."""
    bad = {"name": "x", "image": "x:latest", "securityContext": {"privileged": True, "capabilities": {}}}
    spec = {
        "hostNetwork": True, "securityContext": {}, "containers": [bad],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": "/"}],
    }  # fmt: skip
    assert len(list(_breaches(Pod(owner="x", replicas=1, template={"spec": spec})))) == 12


@pytest.mark.parametrize("name", VALUES)
def test_every_server_is_probed(name: str) -> None:
    """Whatever serves is asked whether it started, lives and is ready, at a port that it names."""
    for pod in pods(rendered(name)):
        for container in pod.template["spec"]["containers"]:
            named = {port["name"] for port in container.get("ports", [])}
            if not named:
                continue
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in named, (pod.owner, probe)


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_may_be_moved_one_at_a_time(name: str) -> None:
    """A drained node takes one pod of a kind away at a time."""
    manifests = rendered(name)
    budgets = [m["spec"]["selector"]["matchLabels"] for m in manifests if m["kind"] == "PodDisruptionBudget"]
    for pod in pods(manifests):
        if pod.owner.startswith("Job/") or pod.owner.endswith(("-router", "-planner")):
            continue  # one of a kind, and nothing waits for it
        labels = pod.template["metadata"]["labels"].items()
        assert sum(budget.items() <= labels for budget in budgets) == 1, pod.owner


@pytest.mark.parametrize("name", VALUES)
def test_the_network_lets_through_what_is_listened_on(name: str) -> None:
    """Each port that is opened to other pods belongs to a container that listens on it."""
    manifests = rendered(name)
    for policy in [m for m in manifests if m["kind"] == "NetworkPolicy"]:
        chosen = policy["spec"]["podSelector"]["matchLabels"].items()
        listened = {
            port["containerPort"]
            for pod in pods(manifests)
            if chosen <= pod.template["metadata"]["labels"].items()
            for container in pod.containers
            for port in container.get("ports", [])
        }
        opened = {p["port"] for rule in policy["spec"]["ingress"] for p in rule.get("ports", [])}
        assert opened <= listened | {6222}, policy["metadata"]["name"]


def test_nats_takes_the_messages_that_the_programs_send() -> None:
    """The server's largest message is that of the embedded one, which bounds the bodies in the queue."""
    (config,) = [m for m in rendered("laptop") if "nats.conf" in m.get("data", {})]
    assert f"max_payload: {MESSAGE_BYTES_MAX}\n" in config["data"]["nats.conf"]
