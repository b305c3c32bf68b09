"""What judges manifests: the schemas of Compose, Kubernetes and KubeRay, every field known."""

from __future__ import annotations

import functools
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from ruamel.yaml import YAML

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
_DATA = Path(__file__).parents[1] / "data" / "schemas"


def read(text: str) -> list[Any]:
    """The documents of a text of YAML, as readers of both of its versions see them."""
    old = list(yaml.safe_load_all(text))
    new = list(YAML(typ="safe", pure=True).load_all(text))
    assert old == new
    return old


@functools.cache
def compose() -> Validator:
    carried = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return Draft202012Validator(json.loads(carried.read_text("utf-8")))


@functools.cache
def _definitions(version: str) -> Resource[Any]:
    carried = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    return Resource.from_contents(json.loads((carried / "_definitions.json").read_text("utf-8")))


@functools.cache
def kubernetes(definition: str, version: str) -> Validator:
    """For ``io.k8s.api.core.v1.Service`` and the like."""
    registry = _definitions(version) @ Registry()
    schema = {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/{definition}"}
    return Draft202012Validator(schema, registry=registry)


_KINDS = {
    ("v1", "ConfigMap"): "io.k8s.api.core.v1.ConfigMap",
    ("v1", "Service"): "io.k8s.api.core.v1.Service",
    ("apps/v1", "StatefulSet"): "io.k8s.api.apps.v1.StatefulSet",
    ("networking.k8s.io/v1", "NetworkPolicy"): "io.k8s.api.networking.v1.NetworkPolicy",
}
_POD = "io.k8s.api.core.v1.PodTemplateSpec"


def judge(document: Any, version: str = VERSIONS[-1]) -> None:
    """Raise `jsonschema.ValidationError` for a document that the API server would refuse."""
    kind = (document["apiVersion"], document["kind"])
    if kind != ("ray.io/v1", "RayCluster"):
        kubernetes(_KINDS[kind], version).validate(document)
        return
    _ray_cluster().validate(document)
    spec = document["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        kubernetes(_POD, version).validate(group["template"])


@functools.cache
def _ray_cluster() -> Validator:
    return Draft202012Validator(json.loads((_DATA / "raycluster.json").read_text("utf-8")))


def kuberay() -> Validator | None:
    """KubeRay's own definition, where `KUBERAY_CRDS` names the folder that has it."""
    folder = os.environ.get("KUBERAY_CRDS")
    if folder is None:
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (Path(folder) / "ray.io_rayclusters.yaml").read_text("utf-8")
    versions = yaml.load(text, Loader=loader)["spec"]["versions"]  # noqa: S506
    schema = next(each for each in versions if each["name"] == "v1")["schema"]["openAPIV3Schema"]
    return Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """Unknown fields are refused, which the API server does by dropping them."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _strict(each) for name, each in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "metadata" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        inner.setdefault("additionalProperties", False)
    return inner
