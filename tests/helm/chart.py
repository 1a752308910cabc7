"""The chart as Helm's own SDK renders it.

Comes in: a values file of the chart, further values. Goes out: manifests as mappings, pods, settings files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.house.tree import ROOT

CHART = ROOT / "helm" / "baton"
VALUES = tuple(sorted(path.stem for path in (CHART / "values").glob("*.yaml")))
"""The values files that the chart ships."""
RELEASE = "baton"
NAMESPACE = "serving"

Manifest = dict[str, Any]

_VARIABLE = re.compile(r"\$\((?P<name>[A-Za-z_][A-Za-z0-9_]*)\)")
_POD_HOLDERS = {"Deployment", "StatefulSet", "Job"}


def values_of(name: str | None) -> dict[str, Any]:
    """Read a values file of the chart; None is the chart's own defaults."""
    if name is None:
        return {}
    loaded = yaml.safe_load((CHART / "values" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over values, section by section, as Helm does with several files."""
    result = dict(values)
    for key, change in changes.items():
        own = result.get(key)
        result[key] = merged(own, change) if isinstance(own, dict) and isinstance(change, dict) else change
    return result


def render_text(values: Mapping[str, Any]) -> str:
    """Render the chart; manifests in the order of their files, without the notes."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(dict(values), name=RELEASE, namespace=NAMESPACE)
    texts = [files[name].strip().removeprefix("---\n") for name in sorted(files) if name.endswith(".yaml")]
    return "\n---\n".join(text for text in texts if text) + "\n"


def render(values: Mapping[str, Any]) -> list[Manifest]:
    """Render the chart into manifests."""
    return _manifests(render_text(values))


@cache
def golden_text(name: str) -> str:
    """Render one of the chart's values files, once."""
    return render_text(values_of(name))


def rendered(name: str) -> list[Manifest]:
    """Render one of the chart's values files into manifests of one's own."""
    return _manifests(golden_text(name))


def _manifests(text: str) -> list[Manifest]:
    return [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod template and whose it is."""

    owner: str
    replicas: int
    template: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """Containers, those that run first before the others."""
        spec = self.template["spec"]
        return [*spec.get("initContainers", []), *spec["containers"]]


def pods(manifests: list[Manifest]) -> Iterator[Pod]:
    """List the pod templates of all that starts pods."""
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        owner = f"{kind}/{manifest['metadata']['name']}"
        if kind in _POD_HOLDERS:
            yield Pod(owner=owner, replicas=spec.get("replicas", 1), template=spec["template"])
        elif kind == "LeaderWorkerSet":
            group = spec["leaderWorkerTemplate"]
            count = spec.get("replicas", 1) * group["size"]
            yield Pod(owner=owner, replicas=count, template=group["workerTemplate"])


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace $(NAME) as the kubelet does; a name that is not set stays as it is."""
    return _VARIABLE.sub(lambda found: environment.get(found["name"], found[0]), text)


def config_of(manifests: list[Manifest], pod: Pod, folder: str) -> dict[str, str]:
    """Find the files of the ConfigMap that a pod mounts at a folder."""
    (mount,) = [m for m in pod.containers[-1]["volumeMounts"] if m["mountPath"] == folder]
    (volume,) = [v for v in pod.template["spec"]["volumes"] if v["name"] == mount["name"]]
    name = volume["configMap"]["name"]
    (found,) = [m for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"] == name]
    data: dict[str, str] = found["data"]
    return data


def write_golden(folder: Path) -> None:
    """Write what every values file renders to."""
    for name in VALUES:
        (folder / f"{name}.yaml").write_text(golden_text(name), encoding="utf-8")
