"""A file for `docker compose`: the image of `deploy/Dockerfile`, fenced as that expects."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from freehold.deploy import yaml_text
from freehold.deploy.carried import (
    HUB_TOKEN,
    SECRETS_EXAMPLE,
    Carried,
    carry,
    grace,
    memory_limit,
    secrets_example,
)
from freehold.deploy.order import CONFIGURATION, STORE, File, Order, Proof, heading
from freehold.domain.errors import InvalidSetting

_SECRETS = "secrets.env"
_FOLDER = "etc"
_PLACE = PurePosixPath(CONFIGURATION).parent
_FROM_FILE = {"env_file": [{"path": _SECRETS, "required": True}]}
_FILL = (
    f"Copy it to {_SECRETS}, readable by you alone, and fill in what is empty: a key is a long "
    "random text, as `openssl rand -hex 32` prints it."
)


def files(order: Order) -> tuple[File, ...]:
    """The manifest, and the files it mounts or reads, all in one folder."""
    carried = carry(order, container=True)
    top = heading("freehold for docker compose", Proof.COMPOSE, _notes(order, carried))
    text = yaml_text.documents([_escaped(document(order, carried))])
    told = tuple(File(f"{_FOLDER}/{file.name}", file.text) for file in carried.files)
    return (File("compose.yaml", top + text), *told, secrets_example(carried, _FILL))


def _notes(order: Order, carried: Carried) -> list[str]:
    notes = [
        f"The secrets ({', '.join(carried.secrets)}) are in {_SECRETS}: copy {SECRETS_EXAMPLE} to "
        "it and fill it in. The image is built in a clone. Then the server is started here:",
        f"  docker build -f deploy/Dockerfile -t {order.image} .",
        "  docker compose up --detach",
        f"After a change in {_FOLDER}/config.toml this has it read again:",
        "  docker compose kill --signal HUP freehold",
        f"The store is the volume `store`, {STORE} inside. FREEHOLD_LOG_LEVEL and _FORMAT are "
        "empty so that config.toml decides them, not the image.",
    ]
    if memory_limit(order.settings) is None:
        notes.append("`memory_budget` is not set: without mem_limit models may take the machine's.")
    return notes


def document(order: Order, carried: Carried) -> dict[str, Any]:
    """The whole manifest as one document."""
    fetching = _fetching(order, carried)
    server = {
        **_common(order, carried),
        "command": ["serve", *order.models],
        **_FROM_FILE,
        "ports": [_published(order)],
        "stop_grace_period": f"{grace(order.settings)}s",
        "restart": "unless-stopped",
        **_limits(order),
    }
    if fetching:
        server["depends_on"] = _after(list(fetching)[-1])
    return {
        "name": "freehold",
        "services": {**fetching, "freehold": server},
        "volumes": {"store": {}},
    }


def _common(order: Order, carried: Carried) -> dict[str, Any]:
    """What the server and those who fetch for it share."""
    # A folder: of a file that is mounted alone, editors would leave the old one in place.
    settings = {"type": "bind", "source": f"./{_FOLDER}", "target": str(_PLACE), "read_only": True}
    return {
        "image": order.image,
        "environment": dict(carried.variables),
        "volumes": [{"type": "volume", "source": "store", "target": STORE}, settings],
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _fetching(order: Order, carried: Carried) -> dict[str, dict[str, Any]]:
    """A service for each model to fetch, one after the other; they end, and the server starts."""
    found: dict[str, dict[str, Any]] = {}
    for number, model in enumerate(order.fetched, 1):
        service = {
            **_common(order, carried),
            "command": ["pull", model],
            **(_FROM_FILE if HUB_TOKEN in carried.secrets else {}),
            "healthcheck": {"disable": True},
            "restart": "no",
        }
        if found:
            service["depends_on"] = _after(list(found)[-1])
        found[f"fetch-{number}"] = service
    return found


def _after(service: str) -> dict[str, Any]:
    return {service: {"condition": "service_completed_successfully"}}


def _published(order: Order) -> dict[str, Any]:
    """Outside it listens where `host` says; inside on every address, behind a key."""
    host, port = order.settings.host, order.settings.port
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InvalidSetting(
            f"host is {host!r}, but Compose publishes a port on an address, not on a name.",
            hint="Name the address: --host 127.0.0.1, or 0.0.0.0 for every one.",
        ) from None
    return {"target": port, "published": str(port), "host_ip": str(address), "protocol": "tcp"}


def _limits(order: Order) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if (memory := memory_limit(order.settings)) is not None:
        limits["mem_limit"] = f"{memory}m"
    if order.gpus:
        device = {"driver": "nvidia", "count": order.gpus, "capabilities": ["gpu"]}
        limits["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return limits


def _escaped(each: Any) -> Any:
    """Compose puts variables where a dollar sign stands; two of them mean one."""
    match each:
        case str():
            return each.replace("$", "$$")
        case Mapping():
            return {name: _escaped(value) for name, value in each.items()}
        case list():
            return [_escaped(value) for value in each]
        case _:
            return each
