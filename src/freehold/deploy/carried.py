"""What of the settings goes along, and by which way.

The file carries every setting that is not at its default, so that SIGHUP reloads what it can. Three
are decided by the place instead: where the store is, where the server listens inside a container,
and where the policy lies. The image sets some variables of its own, and variables go before the
file: those it sets are set here too, to what was resolved, or to nothing, which leaves it to the
file. Secrets go neither way: the manifest names a file, or a Secret, that is filled by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from freehold.deploy import toml_text
from freehold.deploy.order import (
    CONFIGURATION,
    POLICY,
    STORE,
    File,
    Order,
    Proof,
    heading,
)
from freehold.domain.errors import InvalidSetting
from freehold.domain.hosts import is_loopback
from freehold.domain.setting_table import KNOWN, SETTINGS
from freehold.domain.settings import Settings

SECRETS_EXAMPLE = "secrets.env.example"
API_KEY = KNOWN["api_key"].variable
HUB_TOKEN = KNOWN["hub_token"].variable
LAST_PRIVILEGED_PORT = 1023
_OURS = {"home", "policy"}  # said by the place, not by who wrote the settings
_UPSTREAMS = "upstreams"
_RESERVE_MOST = 2048


@dataclass(frozen=True)
class Carried:
    """``configuration`` and ``policy`` are whole files, ``variables`` what the manifest sets,
    ``secrets`` the variables that are filled by hand; ``ports`` those of upstream servers.
    """

    configuration: File
    policy: File | None
    variables: Mapping[str, str]
    secrets: tuple[str, ...]
    ports: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[File, ...]:
        return (self.configuration, *((self.policy,) if self.policy else ()))


def carry(
    order: Order, *, container: bool, upstreams: Mapping[str, Mapping[str, Any]] | None = None
) -> Carried:
    """Raise `InvalidSetting` for what no manifest can carry. ``upstreams`` are further ones."""
    settings = order.settings
    _require_port(settings)
    if container:
        _require_reachable(settings)
    values = _changed(settings, container=container)
    theirs = values.get(_UPSTREAMS, {})
    _require_new(upstreams or {}, {**theirs, **settings.aliases})
    if upstreams:
        values[_UPSTREAMS] = {**theirs, **upstreams}
    if order.policy is not None:
        values["policy"] = POLICY
    return Carried(
        configuration=_configuration(values),
        policy=None if order.policy is None else File("policy.toml", order.policy),
        variables=_variables(settings) if container else {},
        secrets=_secrets(settings, values.get(_UPSTREAMS, {}), container=container),
        ports=_ports(theirs),
    )


def _require_new(names: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    for name in names:
        if name in taken:
            raise InvalidSetting(
                f"{name} is an alias or an upstream already.", hint="Name this model differently."
            )


def _require_port(settings: Settings) -> None:
    if settings.port == 0:
        raise InvalidSetting(
            "port 0 is another one at every start, which no manifest can name.",
            hint="Set a port, or leave it at the default.",
        )
    if settings.port <= LAST_PRIVILEGED_PORT:
        raise InvalidSetting(
            f"port {settings.port} takes a privilege that these manifests give up.",
            hint=f"Choose one above {LAST_PRIVILEGED_PORT}, behind a proxy or a published port.",
        )


def _require_reachable(settings: Settings) -> None:
    """Of what is outside of a container nothing is there but what can be reached."""
    if settings.vllm:
        raise InvalidSetting(
            "The image has no vLLM, so the models under vllm could not be loaded in a container.",
            hint="Leave vllm out, or use --target systemd, or --engine vllm for Kubernetes.",
        )
    for upstream in settings.upstreams.values():
        if any(is_loopback(urlsplit(url).hostname or "") for url in upstream.urls):
            raise InvalidSetting(
                f"The upstream {upstream.name} is at a loopback address, which in a container is "
                "the container itself.",
                hint="Name its host as the container can reach it.",
            )


def _changed(settings: Settings, *, container: bool) -> dict[str, Any]:
    """Name → value of what is not at its default and can stand in the file."""
    defaults = Settings(home=settings.home)
    elsewhere = _OURS | ({"host", "port"} if container else set())
    return {
        setting.name: _plain(getattr(settings, setting.name))
        for setting in SETTINGS
        if not setting.secret and setting.name not in elsewhere
        if getattr(settings, setting.name) != getattr(defaults, setting.name)
    }


def _plain(value: Any) -> Any:
    """What a file can hold: of a table's objects, the fields that are set, under its name."""
    if not isinstance(value, Mapping):
        return value
    return {name: _row(name, each) if is_dataclass(each) else each for name, each in value.items()}


def _row(name: str, row: Any) -> dict[str, Any]:
    """Fields that no `repr` shows are secrets, as everywhere in settings."""
    told = {item.name: getattr(row, item.name) for item in fields(row) if item.repr}
    return {
        field: value
        for field, value in told.items()
        if value is not None and not (field == "name" and value == name)
    }


def _configuration(values: Mapping[str, Any]) -> File:
    top = heading("freehold's settings", Proof.READ, ["docs/configuration.md"])
    return File("config.toml", top + toml_text.document(values))


def _variables(settings: Settings) -> dict[str, str]:
    return {
        "FREEHOLD_CONFIG": CONFIGURATION,
        "FREEHOLD_HOME": STORE,
        "FREEHOLD_HOST": "0.0.0.0",  # noqa: S104
        # The image's health check reads it.
        "FREEHOLD_PORT": str(settings.port),
        "FREEHOLD_LOG_FORMAT": "",
        "FREEHOLD_LOG_LEVEL": "",
    }


def _secrets(
    settings: Settings, upstreams: Mapping[str, Mapping[str, Any]], *, container: bool
) -> tuple[str, ...]:
    """The API key where one is needed, as in every container; others where one is set."""
    needed = {API_KEY} if container or not is_loopback(settings.host) else set()
    given = {s.variable for s in SETTINGS if s.secret and getattr(settings, s.name) is not None}
    ours = [s.variable for s in SETTINGS if s.variable in needed | given]
    theirs = [row["key_variable"] for row in upstreams.values() if row.get("key_variable")]
    return tuple(dict.fromkeys((*ours, *theirs)))


def _ports(upstreams: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    addresses = [urlsplit(url) for row in upstreams.values() for url in row["urls"]]
    found = {each.port or (80 if each.scheme == "http" else 443) for each in addresses}
    return tuple(sorted(found))


def secrets_example(carried: Carried, how: str) -> File:
    """Names without values, and one sentence on how to fill them."""
    top = heading("The secrets of freehold", Proof.READ, [how])
    return File(SECRETS_EXAMPLE, top + "".join(f"{name}=\n" for name in carried.secrets))


def memory_limit(settings: Settings) -> int | None:
    """MiB that the whole service may take, so that the models have ``memory_budget``; None: no
    budget is set, and what the service has decides it.

    Of what there is, a seventh is kept from the models, and never more than 2 GiB.
    """
    budget = settings.memory_budget
    if budget is None:
        return None
    return budget + min(-(-budget // 6), _RESERVE_MOST)


def grace(settings: Settings) -> int:
    """Seconds between the order to stop and the end: longer than answers may go on."""
    return settings.drain + 30
