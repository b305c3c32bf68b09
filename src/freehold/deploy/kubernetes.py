"""Kubernetes: a StatefulSet with its store, a Service, the settings, and a fence around them."""

from __future__ import annotations

import hashlib
from typing import Any

from freehold.deploy import ray, yaml_text
from freehold.deploy.carried import (
    HUB_TOKEN,
    SECRETS_EXAMPLE,
    Carried,
    carry,
    grace,
    memory_limit,
    secrets_example,
)
from freehold.deploy.order import STORE, USER, File, Order, Proof, heading
from freehold.deploy.pods import (
    DNS,
    FENCED,
    NAME,
    argument,
    labels,
    named,
    policy,
    secret_variable,
    tcp,
)

_SECRETS = "secrets.env"
_CREATE = f"kubectl create secret generic {NAME} --from-env-file={_SECRETS}"
_FILL = (
    f"Copy it to {_SECRETS}, readable by you alone, fill in what is empty (a key is a long random "
    "text, as `openssl rand -hex 32` prints it), and hand it over with the command that "
    "freehold.yaml begins with."
)
_START_SECONDS = 15 * 60
_HTTPS = 443


def files(order: Order) -> tuple[File, ...]:
    """Manifests for `kubectl apply`, and the secrets they ask for."""
    cluster = order.cluster
    behind = ray.upstream(cluster, order.settings) if cluster else None
    carried = carry(order, container=True, upstreams=behind)
    top = heading("freehold for Kubernetes", Proof.KUBERNETES, _notes(order, carried))
    found = [File("freehold.yaml", top + yaml_text.documents(documents(order, carried)))]
    if cluster:
        found.append(ray.file(cluster, order.settings))
    return (*found, secrets_example(carried, _FILL))


def _notes(order: Order, carried: Carried) -> list[str]:
    notes = [
        f"First the secrets ({', '.join(carried.secrets)}): copy {SECRETS_EXAMPLE} to {_SECRETS}, "
        "fill it in, then:",
        f"  {_CREATE}",
        f"The image {order.image} must be where the nodes find it (docker build -f "
        "deploy/Dockerfile).",
        "enableServiceLinks is off because Kubernetes would set FREEHOLD_PORT and other variables "
        "that are settings of freehold. FREEHOLD_LOG_LEVEL and _FORMAT are empty so that "
        "config.toml decides them, not the image.",
        "The NetworkPolicy works where the cluster's network enforces such; it lets in the pods of "
        "this namespace and of those named by --namespace.",
    ]
    if memory_limit(order.settings) is None:
        notes.append("`memory_budget` is not set, so the pod has no memory limit.")
    return notes


def documents(order: Order, carried: Carried) -> list[dict[str, Any]]:
    """In the order in which they are needed."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": named(NAME),
            "data": {file.name: file.text for file in carried.files},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named(NAME),
            "spec": {
                "type": "ClusterIP",
                "selector": labels(NAME),
                "ports": [{"name": "http", "port": order.settings.port, "targetPort": "http"}],
            },
        },
        _fence(order, carried),
        _stateful_set(order, carried),
    ]


def _fence(order: Order, carried: Carried) -> dict[str, Any]:
    """In: the API, from this namespace and those named. Out: names, the hub unless offline, and
    the ports of upstream servers."""
    near: list[dict[str, Any]] = [{"podSelector": {}}]
    far = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        for namespace in order.namespaces
    ]
    outward = [DNS]
    ports = {*carried.ports, *(() if order.settings.offline else (_HTTPS,))}
    if ports:
        outward.append({"ports": [tcp(port) for port in sorted(ports)]})
    if order.cluster:
        outward.append(ray.reach())
    inward = [{"from": near + far, "ports": [tcp(order.settings.port)]}]
    return policy(NAME, labels(NAME), inward, outward)


def _stateful_set(order: Order, carried: Carried) -> dict[str, Any]:
    told = "".join(file.text for file in carried.files)
    template = {
        "metadata": {
            "labels": labels(NAME),
            "annotations": {"freehold/configuration": hashlib.sha256(told.encode()).hexdigest()},
        },
        "spec": _pod(order, carried),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": named(NAME),
        "spec": {
            "serviceName": NAME,
            "replicas": 1,  # one server owns the store
            "selector": {"matchLabels": labels(NAME)},
            "template": template,
            "volumeClaimTemplates": [_store(order)],
        },
    }


def _store(order: Order) -> dict[str, Any]:
    return {
        "metadata": {"name": "store"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": order.storage}},
        },
    }


def _pod(order: Order, carried: Carried) -> dict[str, Any]:
    hub = tuple(name for name in carried.secrets if name == HUB_TOKEN)
    fetching = [
        {
            "name": f"fetch-{number}",
            "args": ["pull", argument(model)],
            **_common(order, carried, hub),
        }
        for number, model in enumerate(order.fetched, 1)
    ]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace(order.settings),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": fetching} if fetching else {}),
        "containers": [_server(order, carried)],
        "volumes": [
            {"name": "configuration", "configMap": {"name": NAME}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _common(order: Order, carried: Carried, secrets: tuple[str, ...]) -> dict[str, Any]:
    """What the server and those who fetch for it share."""
    variables = [{"name": name, "value": text} for name, text in carried.variables.items()]
    return {
        "image": order.image,
        "env": [*variables, *map(secret_variable, secrets)],
        "securityContext": {**FENCED, "readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "store", "mountPath": STORE},
            {"name": "configuration", "mountPath": "/etc/freehold", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _server(order: Order, carried: Carried) -> dict[str, Any]:
    return {
        "name": NAME,
        "args": ["serve", *map(argument, order.models)],
        **_common(order, carried, carried.secrets),
        "ports": [{"name": "http", "containerPort": order.settings.port}],
        "startupProbe": _probe("/healthz", 5, _START_SECONDS // 5),
        "livenessProbe": _probe("/healthz", 30, 3),
        "readinessProbe": _probe("/readyz", 5, 2),
        "resources": _resources(order),
    }


def _probe(path: str, every: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": every,
        "timeoutSeconds": 4,
        "failureThreshold": failures,
    }


def _resources(order: Order) -> dict[str, Any]:
    """Memory is asked for in full: a model that is loaded does not shrink."""
    requests, limits = {}, {}
    if (memory := memory_limit(order.settings)) is not None:
        requests["memory"] = limits["memory"] = f"{memory}Mi"
    if order.settings.threads is not None:
        requests["cpu"] = str(order.settings.threads)
    if order.gpus:
        limits["nvidia.com/gpu"] = str(order.gpus)
    return {name: each for name, each in (("requests", requests), ("limits", limits)) if each}
