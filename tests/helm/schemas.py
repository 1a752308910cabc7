"""Kubernetes' own schemas of its objects, each loaded once.

Comes in: a manifest and a version of Kubernetes. Goes out: what is wrong with it. The schemas are the strict
ones (no unknown field) of the package kubernetes-validate, whose own function loads a megabyte per manifest.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
from referencing import Registry, Resource


@cache
def _load(version: str, name: str) -> Any:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@cache
def _registry(version: str) -> Registry[Any]:
    definitions = Resource.from_contents(_load(version, "_definitions"))
    registry: Registry[Any] = Registry().with_resource("_definitions.json", definitions)
    return registry.crawl()


@cache
def _validator(version: str, kind: str, api_version: str) -> Any:
    group, _, number = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], number) if part)
    return jsonschema.Draft202012Validator(_load(version, name), registry=_registry(version))


def faults(manifest: dict[str, Any], version: str) -> Iterator[str]:
    """List what the API server of a version would not take.

    Args:
        manifest: an object of a kind that is part of Kubernetes.
        version: as 1.37.
    """
    for error in _validator(version, manifest["kind"], manifest["apiVersion"]).iter_errors(manifest):
        yield f"{manifest['kind']} {manifest['metadata'].get('name')}: {error.json_path}: {error.message}"
