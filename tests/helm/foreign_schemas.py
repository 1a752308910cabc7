"""The parts of other projects' resources that the chart uses, as strict schemas.

Comes in: a manifest of such a kind. Goes out: what is wrong with it. Invariant: a field that is not named
here is refused, so that a new one is looked up first. Written from the published Go types and references of
leaderworkerset.x-k8s.io/v1 (LeaderWorkerSet from 0.6), monitoring.coreos.com/v1 (prometheus-operator from
0.73), cert-manager.io/v1 (cert-manager from 1.8) and gateway.networking.k8s.io/v1 (Gateway API from 1.0). Not
here: pod templates, which Kubernetes' own schemas check.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema

from tests.helm.chart import Manifest

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Schema = {"type": "integer", "minimum": 0}
COUNT_OR_SHARE: Schema = {"anyOf": [COUNT, {"type": "string", "pattern": "^[0-9]+%$"}]}
DURATION: Schema = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}


def _one_of(*texts: str) -> Schema:
    return {"enum": list(texts)}


def _list(of: Schema, *, least: int = 0) -> Schema:
    return {"type": "array", "items": of, "minItems": least}


def _object(*required: str, **fields: Schema) -> Schema:
    """Take these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


_SELECTOR = _object(
    matchLabels=TEXTS,
    matchExpressions=_list(
        _object(
            "key",
            "operator",
            key=TEXT,
            operator=_one_of("In", "NotIn", "Exists", "DoesNotExist"),
            values=_list({"type": "string"}),
        )
    ),
)

SPECS: dict[tuple[str, str], Schema] = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): _object(
        "leaderWorkerTemplate",
        replicas=COUNT,
        rolloutStrategy=_object(
            "type",
            type=_one_of("RollingUpdate"),
            rollingUpdateConfiguration=_object(
                partition=COUNT, maxUnavailable=COUNT_OR_SHARE, maxSurge=COUNT_OR_SHARE
            ),
        ),
        startupPolicy=_one_of("LeaderCreated", "LeaderReady"),
        networkConfig=_object("subdomainPolicy", subdomainPolicy=_one_of("Shared", "UniquePerReplica")),
        leaderWorkerTemplate=_object(
            "workerTemplate",
            size={"type": "integer", "minimum": 1},
            restartPolicy=_one_of("RecreateGroupOnPodRestart", "None"),
            workerTemplate={"type": "object", "required": ["metadata", "spec"]},
            leaderTemplate={"type": "object", "required": ["metadata", "spec"]},
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _object(
        "selector",
        "podMetricsEndpoints",
        selector=_SELECTOR,
        namespaceSelector=_object(any={"type": "boolean"}, matchNames=_list(TEXT)),
        jobLabel=TEXT,
        podTargetLabels=_list(TEXT),
        podMetricsEndpoints=_list(
            _object(
                port=TEXT,
                path=TEXT,
                scheme=_one_of("http", "https"),
                interval=DURATION,
                scrapeTimeout=DURATION,
                honorLabels={"type": "boolean"},
            ),
            least=1,
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        groups=_list(
            _object(
                "name",
                name=TEXT,
                interval=DURATION,
                rules=_list(
                    {
                        **_object(
                            "expr",
                            alert=TEXT,
                            record=TEXT,
                            expr={"type": ["string", "integer"]},
                            labels=TEXTS,
                            annotations=TEXTS,
                            **{"for": DURATION},
                        ),
                        "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                    }
                ),
            )
        )
    ),
    ("cert-manager.io/v1", "Certificate"): _object(
        "secretName",
        "issuerRef",
        secretName=TEXT,
        dnsNames=_list(TEXT, least=1),
        issuerRef=_object("name", name=TEXT, kind=_one_of("Issuer", "ClusterIssuer"), group=TEXT),
        duration=DURATION,
        renewBefore=DURATION,
        privateKey=_object(
            rotationPolicy=_one_of("Always", "Never"),
            algorithm=_one_of("RSA", "ECDSA", "Ed25519"),
            size=COUNT,
        ),
        usages=_list(_one_of("server auth", "client auth", "digital signature", "key encipherment")),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _object(
        parentRefs=_list(
            _object("name", name=TEXT, namespace=TEXT, sectionName=TEXT, port=COUNT, group=TEXT, kind=TEXT)
        ),
        hostnames=_list(TEXT),
        rules=_list(
            _object(
                matches=_list(
                    _object(
                        path=_object(
                            type=_one_of("Exact", "PathPrefix", "RegularExpression"),
                            value={"type": "string", "pattern": "^/"},
                        )
                    )
                ),
                backendRefs=_list(_object("name", name=TEXT, port=COUNT, weight=COUNT)),
            )
        ),
    ),
}
"""What `spec` may hold, by version and kind."""


def is_foreign(manifest: Manifest) -> bool:
    """Tell whether a manifest is of a kind that is no part of Kubernetes, and known here."""
    return (manifest["apiVersion"], manifest["kind"]) in SPECS


def foreign_faults(manifest: Manifest) -> Iterator[str]:
    """List what that project's API would not take."""
    schema = SPECS[manifest["apiVersion"], manifest["kind"]]
    whole = _object(
        "metadata",
        "spec",
        apiVersion=TEXT,
        kind=TEXT,
        metadata=_object("name", name=TEXT, labels=TEXTS, annotations=TEXTS),
        spec=schema,
    )
    for error in jsonschema.Draft202012Validator(whole).iter_errors(manifest):
        yield f"{manifest['kind']} {manifest['metadata']['name']}: {error.json_path}: {error.message}"
