"""vLLM over Ray, as KubeRay starts it: one RayCluster, vLLM on its head, and a fence around both.

All that is known here of `upstreams`, the setting by which the server in front reaches vLLM, is in
`upstream`.

Ray's ports run what they are sent, and vLLM's own between machines are no better: nothing but the
pods of this cluster may reach them. The server in front reaches vLLM's API on the head, and that
alone.
"""

from __future__ import annotations

import shlex
from typing import Any

from freehold.deploy import yaml_text
from freehold.deploy.order import Cluster, File, Proof, heading
from freehold.deploy.pods import (
    DNS,
    FENCED,
    NAME,
    argument,
    labels,
    named,
    pods,
    policy,
    secret_variable,
    tcp,
)
from freehold.domain.settings import Settings

CLUSTER = f"{NAME}-ray"
SERVICE = f"{NAME}-vllm"
KEY = "VLLM_API_KEY"
PORT = 8000
_ALL = {"ray.io/cluster": CLUSTER}
_HEAD = {**_ALL, "ray.io/node-type": "head"}
_USER = 2000
_WEIGHTS = "/weights"

# Nothing calls home, and nothing is fetched: the weights are in the volume.
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    # A user that the image does not know; libraries ask for its name and its folder.
    "HOME": "/tmp",  # noqa: S108
    "USER": "vllm",
    "LOGNAME": "vllm",
}
_GPUS_THERE = (
    'import ray, sys; ray.init(address="auto", log_to_driver=False); '
    'sys.exit(ray.cluster_resources().get("GPU", 0) < {size})'
)


def upstream(cluster: Cluster, settings: Settings) -> dict[str, Any]:
    """The table `upstreams` of the server in front: this cluster is a model of that name."""
    return {
        cluster.model: {
            "urls": [f"http://{SERVICE}:{PORT}/v1"],
            "model": cluster.model,
            "kind": "vllm",
            "key_variable": KEY,
            "context": settings.context,
            "parallel": settings.parallel,
            "plain_http": True,
        }
    }


def reach() -> dict[str, Any]:
    """What the server in front may do beyond its own fence: ask vLLM."""
    return {"to": [pods(_HEAD)], "ports": [tcp(PORT)]}


def file(cluster: Cluster, settings: Settings) -> File:
    notes = [
        f"KubeRay's operator (1.5.1 or newer, for the token that Ray asks of everybody) must be in "
        f"the cluster. The image {cluster.image} has vLLM and Ray {cluster.ray}.",
        f"The volume claim `{cluster.claim}` has the weights, safetensors, as {cluster.weights}, "
        "and every machine can read it.",
        f"{cluster.size} GPUs (tensor {cluster.tensor}, pipeline {cluster.pipeline}) on machines "
        f"with {cluster.gpus} each, {cluster.machines} of them. docs/cluster.md says what the "
        "ports are, and what happens when a machine dies.",
        "Between this server and vLLM prompts and the key go unencrypted over the pods' network.",
    ]
    top = heading("vLLM over Ray, for KubeRay", Proof.RAY, notes)
    return File("ray.yaml", top + yaml_text.documents(documents(cluster, settings)))


def documents(cluster: Cluster, settings: Settings) -> list[dict[str, Any]]:
    """The fences stand before what they are around."""
    return [
        policy(
            CLUSTER,
            _ALL,
            [{"from": [pods(_ALL)]}],
            [{"to": [pods(_ALL)]}, DNS],
        ),
        policy(SERVICE, _HEAD, [{"from": [pods(labels(NAME))], "ports": [tcp(PORT)]}]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named(SERVICE),
            "spec": {"selector": _HEAD, "ports": [{"name": "http", "port": PORT}]},
        },
        _ray_cluster(cluster, settings),
    ]


def _ray_cluster(cluster: Cluster, settings: Settings) -> dict[str, Any]:
    head = {
        "serviceType": "ClusterIP",
        # The dashboard takes jobs, that is, code: it stays on the head's loopback.
        "rayStartParams": {"dashboard-host": "127.0.0.1"},
        "template": _template(_head(cluster, settings), cluster),
    }
    others = {
        "groupName": "workers",
        "replicas": cluster.machines - 1,
        "minReplicas": cluster.machines - 1,
        "maxReplicas": cluster.machines - 1,
        "rayStartParams": {},
        "template": _template(_worker(cluster), cluster),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            **named(CLUSTER),
            "annotations": {"ray.io/overwrite-container-cmd": "true"},
        },
        "spec": {
            "rayVersion": cluster.ray,
            "authOptions": {"mode": "token"},
            "headGroupSpec": head,
            "workerGroupSpecs": [others] if cluster.machines > 1 else [],
        },
    }


def _template(container: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "weights", "persistentVolumeClaim": _claim(cluster)},
                {"name": "tmp", "emptyDir": {}},
            ],
        }
    }


def _claim(cluster: Cluster) -> dict[str, Any]:
    return {"claimName": cluster.claim, "readOnly": True}


def _container(name: str, cluster: Cluster, script: str) -> dict[str, Any]:
    address = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return {
        "name": name,
        "image": cluster.image,
        "command": ["/bin/bash", "-c"],
        "args": [argument(script)],
        "env": [*({"name": each, "value": text} for each, text in _QUIET.items()), address],
        "resources": {"limits": {"nvidia.com/gpu": str(cluster.gpus)}},
        "securityContext": dict(FENCED),
        "volumeMounts": [
            {"name": "weights", "mountPath": _WEIGHTS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _worker(cluster: Cluster) -> dict[str, Any]:
    return _container("ray-worker", cluster, 'ulimit -n 65536; eval "$KUBERAY_GEN_RAY_START_CMD"\n')


def _head(cluster: Cluster, settings: Settings) -> dict[str, Any]:
    """Ray beside it, then vLLM as soon as all GPUs are there: when vLLM ends, so does the pod."""
    there = shlex.quote(_GPUS_THERE.format(size=cluster.size))
    script = (
        "set -u\n"
        "ulimit -n 65536\n"
        'eval "$KUBERAY_GEN_RAY_START_CMD" &\n'
        f"until python3 -c {there}; do sleep 5; done\n"
        f"exec {shlex.join(serving(cluster, settings))}\n"
    )
    container = _container("ray-head", cluster, script)
    health = {"path": "/health", "port": PORT}
    return {
        **container,
        "env": [*container["env"], secret_variable(KEY)],
        "ports": [{"name": "vllm", "containerPort": PORT}],
        "readinessProbe": {"httpGet": health, "periodSeconds": 10, "timeoutSeconds": 5},
    }


def serving(cluster: Cluster, settings: Settings) -> list[str]:
    """The command of vLLM's server."""
    return [
        *("python3", "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104
        *("--model", cluster.weights, "--served-model-name", cluster.model),
        *("--distributed-executor-backend", "ray"),
        *("--tensor-parallel-size", str(cluster.tensor)),
        *("--pipeline-parallel-size", str(cluster.pipeline)),
        *("--max-model-len", str(settings.context)),
        *("--max-num-seqs", str(settings.parallel)),
    ]
