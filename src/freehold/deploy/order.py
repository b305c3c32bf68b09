"""What is to be written: for what, from which settings, and what each kind of file has proved."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from freehold.domain.settings import Settings

CONFIGURATION = "/etc/freehold/config.toml"
POLICY = "/etc/freehold/policy.toml"
STORE = "/data"
USER = 7333


class Target(enum.StrEnum):
    """What is to start the server."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    SYSTEMD = "systemd"


@dataclass(frozen=True)
class Cluster:
    """vLLM on several machines with ``gpus`` GPUs each, ``tensor`` times ``pipeline`` in all.

    ``weights`` is a path in the volume ``claim``, which every machine can read. ``image`` has vLLM
    and Ray, the latter in version ``ray``.
    """

    model: str
    image: str
    claim: str = "weights"
    weights: str = "/weights"
    tensor: int = 1
    pipeline: int = 1
    gpus: int = 1
    ray: str = "2.60.0"

    @property
    def size(self) -> int:
        return self.tensor * self.pipeline

    @property
    def machines(self) -> int:
        return self.size // self.gpus


@dataclass(frozen=True)
class Order:
    """``policy`` is the text of the policy file that the settings lead to; ``models`` are fetched
    before the start and loaded at it; ``namespaces`` may reach the server as its own may;
    ``program`` is where systemd finds `freehold`.
    """

    settings: Settings
    models: tuple[str, ...] = ()
    policy: str | None = None
    image: str = f"freehold:{version('freehold')}"
    program: str = "/opt/freehold/.venv/bin/freehold"
    gpus: int = 0
    storage: str = "50Gi"
    namespaces: tuple[str, ...] = ()
    cluster: Cluster | None = None

    @property
    def fetched(self) -> tuple[str, ...]:
        """Models that must be in the store before the server starts; none where it is offline."""
        if self.settings.offline:
            return ()
        elsewhere = {self.cluster.model} if self.cluster else set()
        return tuple(
            each
            for each in dict.fromkeys((*self.models, *self.settings.pin))
            if each not in elsewhere
        )


@dataclass(frozen=True)
class File:
    """``name`` is its own in the folder that is written."""

    name: str
    text: str


class Proof(enum.StrEnum):
    """What this kind of file has been through; `tests/unit/test_deploy.py` does the checks."""

    READ = "Run here: `freehold config` has read files like this one."
    SYSTEMD = (
        "Run here: a unit like this one was started, reloaded, killed and stopped by systemd 252, "
        "in a container."
    )
    COMPOSE = (
        "Run here: podman-compose 1.6 (podman 4.3) has started, reloaded and stopped one like it. "
        "Docker has not. Checked against its schema, Compose's own."
    )
    KUBERNETES = (
        "Not run here as a whole: no cluster has had it. Podman 4.3 has run its pod, without the "
        "probes. Checked against its schemas, those of Kubernetes 1.30 to 1.37."
    )
    RAY = (
        "Not run here: no cluster has had it, and no GPU. Checked against its schemas, those of "
        "Kubernetes and the definition of RayCluster in KubeRay 1.7."
    )


def heading(what: str, proof: Proof, notes: Iterable[str] = ()) -> str:
    """The comment on top of a file: what it is, whether it was run, what has to be known. A note
    that is indented is a command, on a line of its own.
    """
    by = f"{what}. Written by freehold {version('freehold')} (`freehold deploy`)."
    return "".join(_comment(text) for text in (by, proof.value, *notes)) + "\n"


def _comment(text: str) -> str:
    if text.startswith(" "):
        return f"# {text}\n"
    lines = textwrap.wrap(text, 98, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)
