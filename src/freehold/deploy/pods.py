"""Parts of Kubernetes manifests that the server and the machines of a cluster share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "freehold"

# What the profile "restricted" of the Pod Security Standards asks of every container.
FENCED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
DNS: dict[str, Any] = {
    "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}


def labels(name: str) -> dict[str, str]:
    """By which the pods of one part are found."""
    return {"app.kubernetes.io/name": name}


def named(name: str) -> dict[str, Any]:
    """The metadata of an object of ours."""
    return {"name": name, "labels": labels(name)}


def tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}


def argument(text: str) -> str:
    """Kubernetes puts a variable where ``$(NAME)`` stands; ``$$(`` means the signs themselves."""
    return text.replace("$(", "$$(")


def pods(of: Mapping[str, str]) -> dict[str, Any]:
    """Those with these labels, in this namespace."""
    return {"podSelector": {"matchLabels": dict(of)}}


def policy(
    name: str,
    of: Mapping[str, str],
    inward: list[dict[str, Any]],
    outward: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Nothing reaches the pods with these labels but as said, and they reach nothing but as said;
    ``outward`` None: that is said elsewhere.
    """
    out = {} if outward is None else {"egress": outward}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": named(name),
        "spec": {
            **pods(of),
            "policyTypes": ["Ingress", *(["Egress"] if out else [])],
            "ingress": inward,
            **out,
        },
    }


def secret_variable(name: str) -> dict[str, Any]:
    """A variable whose value is in the Secret, under its own name."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": NAME, "key": name}}}
