"""Settings, resolved once: flag, then environment, then file, then default.

This is the only module that reads `os.environ`. A value that does not parse is
an `InvalidSetting` that names the setting and where the value came from; a name
nobody knows in the file or among the ``FREEHOLD_`` variables is one too.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from freehold.domain.durations import spelled
from freehold.domain.errors import InvalidSetting
from freehold.domain.setting_table import KNOWN, SETTINGS, Group, Setting
from freehold.domain.setting_values import PartError
from freehold.domain.toml_lines import line_of
from freehold.domain.upstreams import Upstream

DEFAULT_PORT = 7333
DEFAULT_CONTEXT = 8192
DEFAULT_PARALLEL = 4
DEFAULT_LATENCY = 500
DEFAULT_PREFIX_MEMORY = 1024
DEFAULT_DEADLINE = 600
DEFAULT_QUEUE = 512
DEFAULT_CONNECTIONS = 2048
DEFAULT_DRAIN = 30
DEFAULT_KEEP_ALIVE = 1800.0
MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Settings:
    """Everything that can be configured. `setting_table` says what each is, and gives the reasons.

    ``context`` is in tokens per sequence; ``max_tokens`` None means as many as
    the context has room for; ``threads`` None means one per core we may use.
    ``deadline`` is in seconds: how long a request may wait for its first token; ``drain`` too: how
    long answers may go on after the order to stop. ``queue`` is how many requests may wait for each
    model, ``connections`` how many the server holds at once; ``require_keys`` asks for API keys on
    loopback too; ``hosts`` and ``cors_origins`` are further names of the server and the web pages
    of others that may use it.
    ``cache_layout``, ``cache_type``, ``flash_attention``, ``cells`` and ``prefix_memory`` (MiB)
    are about the key-value cache; ``latency`` is the inter-token latency, in milliseconds, that
    reading other prompts must respect; ``speculate`` allows guessing tokens. ``profiles``: use what
    `freehold tune` has measured.
    Models named in ``vllm`` are run by vLLM, whose ``tensor_parallel`` cards share each layer, and
    ``pipeline_parallel`` groups of them the layers (both None: as the plan finds);
    ``quantization`` is done to weights of 16 bits.
    ``aliases`` are further names of models, for clients that insist on one. ``policy`` is the file
    that says what to do about verdicts on licences; None: the usual one, if it is there.
    ``memory_budget`` MiB are for all models together, None: what the machine can spare;
    ``keep_alive`` is how many seconds an unused model stays, infinity for ever; those named in
    ``pin`` are loaded at the start and stay.
    ``upstreams`` are models of other servers, with the keys that their variables hold.
    ``conversations`` of the page are kept on disk; False: in memory, until the server ends.
    ``origins`` says where each value came from: ``flag``, a variable, a file, ``default``.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    context: int = DEFAULT_CONTEXT
    max_tokens: int | None = None
    parallel: int = DEFAULT_PARALLEL
    threads: int | None = None
    deadline: int = DEFAULT_DEADLINE
    queue: int = DEFAULT_QUEUE
    connections: int = DEFAULT_CONNECTIONS
    require_keys: bool = False
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    drain: int = DEFAULT_DRAIN
    cache_layout: str = "streams"
    cache_type: str = "f16"
    flash_attention: bool = False
    cells: int | None = None
    prefix_memory: int = DEFAULT_PREFIX_MEMORY
    latency: int = DEFAULT_LATENCY
    speculate: bool = True
    profiles: bool = True
    vllm: tuple[str, ...] = ()
    tensor_parallel: int | None = None
    lora_slots: int = 0
    pipeline_parallel: int | None = None
    quantization: str = "none"
    offline: bool = False
    conversations: bool = True
    api_key: str | None = field(default=None, repr=False)
    hub_endpoint: str | None = None
    hub_token: str | None = field(default=None, repr=False)
    log_level: str = "warning"
    log_format: str = "text"
    aliases: Mapping[str, str] = field(default_factory=dict)
    policy: Path | None = None
    memory_budget: int | None = None
    keep_alive: float = DEFAULT_KEEP_ALIVE
    pin: tuple[str, ...] = ()
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def environment() -> Mapping[str, str]:
    """The process environment, for those who pass it on (children) or parse it (here)."""
    return os.environ


def default_home() -> Path:
    """Where weights and state live unless FREEHOLD_HOME says otherwise."""
    return Path(platformdirs.user_data_dir("freehold", appauthor=False))


def default_file() -> Path:
    """The configuration file looked for unless FREEHOLD_CONFIG names another."""
    return Path(platformdirs.user_config_dir("freehold", appauthor=False)) / "config.toml"


def default_policy() -> Path:
    """The policy file looked for unless FREEHOLD_POLICY names another."""
    return default_file().with_name("policy.toml")


_OTHER_VARIABLES = {"FREEHOLD_CONFIG"}


@dataclass(frozen=True)
class _File:
    """What a configuration file says."""

    path: Path
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def where(self, name: str, *inner: str) -> str:
        """The line of a setting, or of what ``inner`` leads to in its table."""
        line = line_of(self.text, name, *inner) or line_of(self.text, name)
        return f"{self.path}, line {line}" if line else str(self.path)


def _read_file(path: Path, *, required: bool) -> _File:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidSetting(f"{path} is too long to be a configuration file.")
        text = data.decode()
        return _File(path, text, tomllib.loads(text))
    except FileNotFoundError:
        if required:
            raise InvalidSetting(f"The configuration file {path} does not exist.") from None
        return _File(path)
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidSetting(f"{path} is not valid TOML: it is not UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"{path} is not valid TOML: {error}.") from error
    except RecursionError as error:
        raise InvalidSetting(f"{path} is nested too deeply to be a configuration file.") from error


def _reject_unknown(file: _File, variables: Mapping[str, str]) -> None:
    for name in file.values:
        if name not in KNOWN:
            raise _unknown(name, set(KNOWN), file.where(name))
    ours = {name for name in variables if name.startswith("FREEHOLD_")}
    known = {setting.variable for setting in SETTINGS} | _OTHER_VARIABLES
    for name in sorted(ours - known):
        raise _unknown(name, known, "a variable")


def _unknown(name: str, known: set[str], where: str) -> InvalidSetting:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(known))}."
    return InvalidSetting(f"There is no setting called {name} ({where}).", hint=hint)


def configuration_file(environ: Mapping[str, str] | None = None) -> Path:
    """The file that is read: the usual one, or what FREEHOLD_CONFIG names."""
    named = (environment() if environ is None else environ).get("FREEHOLD_CONFIG")
    return Path(named) if named else default_file()


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Merge flags (absent or None means not given), environment, file and defaults."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    variables = environment() if environ is None else environ
    path = file or configuration_file(variables)
    stored = _read_file(path, required=file is not None or bool(variables.get("FREEHOLD_CONFIG")))
    _reject_unknown(stored, variables)

    values: dict[str, Any] = {}
    origins = {item.name: "default" for item in dataclasses.fields(Settings)}
    for name, setting in KNOWN.items():
        if name in given:
            raw, origin = given[name], f"flag {_flag(setting)}"
        elif variables.get(setting.variable):
            raw, origin = variables[setting.variable], f"variable {setting.variable}"
        elif name in stored.values:
            raw, origin = stored.values[name], f"file {path}"
        else:
            continue
        try:
            values[name] = setting.form(raw)
        except ValueError as error:
            raise _invalid(setting, raw, origin, stored, error) from None
        origins[name] = origin
    if "home" not in values:  # a user without a home can have a store all the same
        values["home"] = default_home()
    if "upstreams" in values:
        values["upstreams"] = _with_keys(values["upstreams"], variables)
        _require_own_names(values["upstreams"], values.get("aliases", {}), origins)
    return Settings(**values, origins=origins)


def _invalid(
    setting: Setting, raw: Any, origin: str, stored: _File, error: ValueError
) -> InvalidSetting:
    inner: tuple[str, ...] = ()
    if isinstance(error, PartError):
        inner, raw = error.path, error.value
    shown_raw = "its value" if setting.secret or (inner and raw is None) else repr(raw)
    if origin.startswith("file "):
        origin = f"file {stored.where(setting.name, *inner)}"
    name = ".".join((setting.name, *inner))
    return InvalidSetting(f"{name} {error}, but {shown_raw} came from {origin}.")


def _with_keys(
    upstreams: Mapping[str, Upstream], variables: Mapping[str, str]
) -> Mapping[str, Upstream]:
    return {
        name: dataclasses.replace(each, key=variables.get(each.key_variable or "") or None)
        for name, each in upstreams.items()
    }


def _require_own_names(
    upstreams: Mapping[str, Upstream], aliases: Mapping[str, str], origins: Mapping[str, str]
) -> None:
    for name in sorted(set(upstreams) & set(aliases)):
        raise InvalidSetting(
            f"{name} is an upstream ({origins['upstreams']}) and an alias ({origins['aliases']}).",
            hint="Give one of them another name.",
        )


def _flag(setting: Setting) -> str:
    return setting.serve_flag or f"--{setting.name.replace('_', '-')}"


def default_of(setting: Setting) -> str:
    """What a setting is when nobody sets it, as the documentation says it."""
    if setting.default is not None:
        return setting.default
    value = next(item.default for item in dataclasses.fields(Settings) if item.name == setting.name)
    return "none" if value is None else shown(value)


def shown(value: Any) -> str:
    """A value in one line, as it would stand on a command line."""
    match value:
        case bool():
            return str(value).lower()
        case float():  # the only ones are durations
            return spelled(value)
        case Mapping():
            return ", ".join(f"{name}={model}" for name, model in value.items())
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def as_variables(settings: Settings, groups: Collection[Group]) -> dict[str, str]:
    """What somebody set of ``groups``, wherever, as variables for another process of ours; and
    where the store is. No secrets.
    """
    told = {"FREEHOLD_HOME": str(settings.home)}
    for each in SETTINGS:
        own = settings.origins.get(each.name, "default") != "default"
        value = getattr(settings, each.name)
        if own and each.group in groups and not each.secret and value is not None:
            told[each.variable] = shown(value)
    return told


def changed(before: Settings, after: Settings) -> tuple[tuple[Setting, ...], tuple[Setting, ...]]:
    """Which settings differ: those a running server takes, and those it was started with."""
    differing = [s for s in SETTINGS if getattr(before, s.name) != getattr(after, s.name)]
    live = tuple(setting for setting in differing if setting.live)
    return live, tuple(setting for setting in differing if not setting.live)
