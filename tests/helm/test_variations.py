"""What the shipped values files leave out is rendered as well as what they use."""

import json
from typing import Any

from services.engine.vllm.settings import NodesSettings
from services.runtime.settings import override, parse
from services.worker.following import engine_to_follow
from services.worker.settings import WorkerProcessSettings
from tests.helm.chart import Manifest, config_of, expand, merged, pods, render, values_of
from tests.helm.foreign_schemas import foreign_faults, is_foreign
from tests.helm.kubelet import SETTINGS
from tests.helm.schemas import faults
from tests.helm.test_chart_renders import KUBERNETES


def _rendered(changes: dict[str, Any]) -> list[Manifest]:
    """Render the laptop's values with changes; everything fits Kubernetes' schemas."""
    manifests = render(merged(values_of("laptop"), changes))
    found = [
        fault
        for manifest in manifests
        for fault in (foreign_faults(manifest) if is_foreign(manifest) else faults(manifest, KUBERNETES[-1]))
    ]
    assert not found, "\n".join(found)
    return manifests


def _one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def _worker_settings(manifests: list[Manifest], pool: str) -> Any:
    (pod,) = [p for p in pods(manifests) if p.owner == f"Deployment/baton-{pool}"]
    return json.loads(config_of(manifests, pod, SETTINGS)["worker.json"])


def test_an_existing_nats_takes_the_place_of_ours() -> None:
    """No server is started; everybody gets its address and the credentials file, and may reach its port."""
    manifests = _rendered({
        "nats": {
            "enabled": False,
            "url": "tls://nats.messaging:4333",
            "replicas": 3,
            "credentials": {"name": "nats-user", "key": "user.creds"},
        }
    })  # fmt: skip
    assert "StatefulSet" not in {m["kind"] for m in manifests}
    bus = _worker_settings(manifests, "decode")["bus"]
    assert (bus["url"], bus["replicas"]) == ("tls://nats.messaging:4333", 3)
    assert bus["credentials_file"] == "/etc/baton/credentials/user.creds"
    egress = _one(manifests, "NetworkPolicy", "baton-worker")["spec"]["egress"]
    assert {"ports": [{"port": 4333}]} in egress
    for pod in pods(manifests):
        (mount,) = [m for m in pod.containers[-1]["volumeMounts"] if m["name"] == "credentials"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/etc/baton/credentials", True)


def test_pools_lay_what_they_name_over_the_defaults() -> None:
    """Section by section, with false, zero and null among the values, and without a trace in other pools."""
    manifests = _rendered({
        "poolDefaults": {
            "vllm": {"structured_output": True, "kv_cache_bytes": 1024},
            "nodeSelector": {"a": "1"},
        },
        "pools": [
            {"name": "own", "vllm": {"structured_output": False, "kv_cache_bytes": None}, "replicas": 0},
            {"name": "plain", "nodeSelector": {"b": "2"}},
        ],
    })  # fmt: skip
    own, plain = (_worker_settings(manifests, name)["workers"][0]["engine"] for name in ("own", "plain"))
    assert (own["structured_output"], own["kv_cache_bytes"]) == (False, None)
    assert (plain["structured_output"], plain["kv_cache_bytes"]) == (True, 1024)
    assert _one(manifests, "Deployment", "baton-own")["spec"]["replicas"] == 0
    selector = _one(manifests, "Deployment", "baton-plain")["spec"]["template"]["spec"]["nodeSelector"]
    assert selector == {"a": "1", "b": "2"}


def test_gpus_change_what_engines_start_from() -> None:
    """No KV size of a CPU's, no eager mode, one rank per GPU; what the values say wins."""
    pool = {
        "name": "gpu",
        "gpu": {"count": 4},
        "vllm": {"performance": "h100-llama-3.1-8b-bf16", "dtype": "float16"},
    }
    manifests = _rendered({"pools": [pool]})
    engine = _worker_settings(manifests, "gpu")["workers"][0]["engine"]
    assert (engine["kv_cache_bytes"], engine["enforce_eager"], engine["dtype"]) == (None, False, "float16")
    assert engine["tensor_parallel_size"] == 4
    (pod,) = [p for p in pods(manifests) if p.owner == "Deployment/baton-gpu"]
    (container,) = pod.containers
    assert container["image"].startswith("baton-gpu:")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4


def test_a_worker_over_machines_is_one_group_of_pods() -> None:
    """All pods of a group have the same file; which part each is, and who leads, are its arguments."""
    pool = {
        "name": "wide",
        "nodes": 2,
        "gpu": {"count": 8},
        "vllm": {"performance": "h100-llama-3.1-8b-bf16"},
        "replicas": 3,
        "maxUnavailable": 2,
    }
    manifests = _rendered({"pools": [pool]})
    spec = _one(manifests, "LeaderWorkerSet", "baton-wide")["spec"]
    assert (spec["replicas"], spec["leaderWorkerTemplate"]["size"]) == (3, 2)
    assert spec["rolloutStrategy"]["rollingUpdateConfiguration"] == {"maxUnavailable": 2, "maxSurge": 0}
    (pod,) = [p for p in pods(manifests) if p.owner == "LeaderWorkerSet/baton-wide"]
    file = json.loads(config_of(manifests, pod, SETTINGS)["worker.json"])
    assert file["workers"][0]["engine"]["tensor_parallel_size"] == 16
    (container,) = pod.containers
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    group = {"LWS_WORKER_INDEX": "1", "LWS_LEADER_ADDRESS": "baton-wide-0.baton-wide.serving"}
    group |= {"POD_NAME": "baton-wide-0-1", "POD_IP": "10.1.2.3"}
    sets = [expand(argument, group) for argument in container["args"] if argument.startswith("--set=")]
    named = [argument.removeprefix("--set=") for argument in sets]
    settings = parse(WorkerProcessSettings, override(file, named), source="chart")
    engine = engine_to_follow(settings)
    assert engine is not None
    assert engine.nodes == NodesSettings(count=2, rank=1, leader_host="baton-wide-0.baton-wide.serving")


def _images(manifests: list[Manifest]) -> set[str]:
    return {container["image"] for pod in pods(manifests) for container in pod.containers}


def _pod_spec(manifests: list[Manifest], owner: str) -> Any:
    (found,) = [pod.template["spec"] for pod in pods(manifests) if pod.owner == owner]
    return found


def test_an_http_route_attaches_to_the_gateways_it_names() -> None:
    """The Gateway API instead of an Ingress."""
    route = {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["llm.example"]}
    spec = _one(_rendered({"gateway": {"httpRoute": route}}), "HTTPRoute", "baton-gateway")["spec"]
    assert (spec["hostnames"], spec["parentRefs"]) == (["llm.example"], [{"name": "edge"}])
    assert spec["rules"][0]["backendRefs"] == [{"name": "baton-gateway", "port": 8000}]


def test_images_are_named_by_digest_or_replaced_per_pool() -> None:
    """A digest wins over a tag; a pool's own image over that of its device."""
    digest = f"sha256:{'0' * 64}"
    pools = [{"name": "a", "image": {"repository": "mine", "tag": "7"}}, {"name": "b"}]
    images = _images(_rendered({"pools": pools, "images": {"cpu": {"digest": digest}}}))
    assert images == {"baton-control:0.1.0", f"baton-cpu@{digest}", "mine:7"}


def test_grace_periods_follow_the_drains() -> None:
    """Nobody is killed by the kubelet while it still drains, fractions of a second included."""
    changes = {
        "settings": {"conductor": {"drain_timeout_s": 100.5}},
        "poolDefaults": {"drainTimeoutSeconds": 200},
    }
    manifests = _rendered(changes)
    assert _pod_spec(manifests, "Deployment/baton-gateway")["terminationGracePeriodSeconds"] > 5 + 100.5
    assert _pod_spec(manifests, "Deployment/baton-decode")["terminationGracePeriodSeconds"] > 200
    assert _worker_settings(manifests, "decode")["drain_timeout_s"] == 200


def test_pods_take_what_their_section_says_of_scheduling() -> None:
    """Classes, runtimes and affinities reach the pods of their section and no others."""
    manifests = _rendered({
        "poolDefaults": {"priorityClassName": "high", "runtimeClassName": "nvidia"},
        "nats": {"affinity": {"podAntiAffinity": {}}, "topologySpread": []},
        "gateway": {"labels": {"team": "serving"}, "annotations": {"mesh": "on"}},
    })  # fmt: skip
    decode = _pod_spec(manifests, "Deployment/baton-decode")
    assert (decode["priorityClassName"], decode["runtimeClassName"]) == ("high", "nvidia")
    nats = _pod_spec(manifests, "StatefulSet/baton-nats")
    assert nats["affinity"] == {"podAntiAffinity": {}}
    assert not nats.keys() & {"priorityClassName", "runtimeClassName", "topologySpreadConstraints"}
    about = _one(manifests, "Deployment", "baton-gateway")["spec"]["template"]["metadata"]
    assert (about["labels"]["team"], about["annotations"]["mesh"]) == ("serving", "on")


def test_policies_can_be_left_to_others() -> None:
    """Where somebody else says who may talk to whom, the chart says nothing."""
    manifests = _rendered({"networkPolicy": {"enabled": False}})
    assert "NetworkPolicy" not in {manifest["kind"] for manifest in manifests}


def test_no_client_rule_lets_everybody_read_metrics() -> None:
    """While nobody is named who may read metrics, naming clients closes those of gateways to all others."""
    named = [{"namespaceSelector": {"matchLabels": {"a": "1"}}}]
    watching = [{"namespaceSelector": {"matchLabels": {"b": "2"}}}]
    for monitoring, allowed in (([], named), (watching, watching)):
        manifests = _rendered({"networkPolicy": {"clients": named, "monitoring": monitoring}})
        ingress = _one(manifests, "NetworkPolicy", "baton-gateway")["spec"]["ingress"]
        assert [(rule["from"], [p["port"] for p in rule["ports"]]) for rule in ingress] == [
            (named, [8000, 8001]),
            (allowed, [9090]),
        ]


def test_certificates_of_the_edge_are_made_or_given() -> None:
    """By an issuer and for names of its own; or Secrets: of the edge, and of who signs clients."""
    made = {"enabled": True, "issuer": {"name": "public"}, "hosts": ["llm.example"]}
    manifests = _rendered({"tls": {"issuer": {"name": "internal"}, "edge": made, "links": {"enabled": True}}})
    issued = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Certificate"}
    assert {name: spec["issuerRef"]["name"] for name, spec in issued.items()} == {
        "baton-edge": "public",
        "baton-links": "internal",
    }
    assert issued["baton-edge"]["dnsNames"] == ["llm.example"]
    given = {"enabled": True, "secretName": "mine", "clientSecretName": "theirs"}
    manifests = _rendered({"tls": {"edge": given}})
    assert "Certificate" not in {m["kind"] for m in manifests}
    volumes = {v["name"]: v for v in _pod_spec(manifests, "Deployment/baton-gateway")["volumes"]}
    assert volumes["edge-tls"]["secret"]["secretName"] == "mine"
    assert volumes["clients"]["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_nothing_is_encrypted_for_those_who_watch() -> None:
    """Probes, Prometheus and the planner find gateways at a port that clients outside do not reach."""
    planner = {"enabled": True, "pools": [{"name": "prefill"}, {"name": "decode"}]}
    manifests = _rendered({
        "planner": planner,
        "tls": {"edge": {"enabled": True, "secretName": "edge"}},
        "monitoring": {"podMonitors": {"enabled": True}},
    })  # fmt: skip
    (container,) = _pod_spec(manifests, "Deployment/baton-gateway")["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"
    scraped = _one(manifests, "PodMonitor", "baton")["spec"]["podMetricsEndpoints"]
    assert [endpoint["port"] for endpoint in scraped] == ["metrics"]
    (pod,) = [p for p in pods(manifests) if p.owner == "Deployment/baton-planner"]
    asked = json.loads(config_of(manifests, pod, SETTINGS)["planner.json"])["observe"]["urls"]
    assert asked == ["http://baton-gateway-metrics:9090/metrics"]
    led = _one(manifests, "Service", "baton-gateway")["spec"]["ports"]
    assert [(port["name"], port["appProtocol"]) for port in led] == [("http", "https"), ("grpc", "https")]
