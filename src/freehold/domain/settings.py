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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from freehold.domain.errors import InvalidSetting

DEFAULT_PORT = 7333
DEFAULT_CONTEXT = 8192
DEFAULT_PARALLEL = 4
DEFAULT_LATENCY = 500
DEFAULT_PREFIX_MEMORY = 1024
DEFAULT_DEADLINE = 600


@dataclass(frozen=True)
class Settings:
    """Everything that can be configured. `docs/configuration.md` gives the reasons.

    ``context`` is in tokens per sequence; ``max_tokens`` None means as many as
    the context has room for; ``threads`` None means one per core we may use.
    ``deadline`` is in seconds: how long a request may wait for its first token.
    ``cache_layout``, ``cache_type``, ``flash_attention``, ``cells`` and ``prefix_memory`` (MiB)
    are about the key-value cache; ``latency`` is the inter-token latency, in milliseconds, that
    reading other prompts must respect; ``speculate`` allows guessing tokens.
    ``aliases`` are further names of models, for clients that insist on one. ``policy`` is the file
    that says what to do about verdicts on licences; None: the usual one, if it is there.
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
    cache_layout: str = "streams"
    cache_type: str = "f16"
    flash_attention: bool = False
    cells: int | None = None
    prefix_memory: int = DEFAULT_PREFIX_MEMORY
    latency: int = DEFAULT_LATENCY
    speculate: bool = True
    offline: bool = False
    api_key: str | None = field(default=None, repr=False)
    hub_endpoint: str | None = None
    hub_token: str | None = field(default=None, repr=False)
    log_level: str = "warning"
    aliases: Mapping[str, str] = field(default_factory=dict)
    policy: Path | None = None
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


def _number(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool | float):
            raise ValueError("must be a whole number")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if not low <= number <= high:
            raise ValueError(f"must be between {low} and {high}")
        return number

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a non-empty text")
    return value


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser().absolute()


def _one_of(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be {', '.join(names[:-1])} or {names[-1]}")
        return str(value)

    return parse


def _pairs(value: Any) -> Mapping[str, str]:
    """A table, or ``name=model`` with commas between several."""
    if isinstance(value, str):
        value = [item for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple):
        split = [str(item).partition("=") for item in value]
        value = {name.strip(): model.strip() if sign else None for name, sign, model in split}
    whole = isinstance(value, Mapping) and all(
        isinstance(text, str) and text for pair in value.items() for text in pair
    )
    if not whole:
        raise ValueError("must be pairs of a name and a model, as in gpt-4o=qwen3:4b")
    if set(value) & set(value.values()):
        raise ValueError("must be names of models, not of each other")
    return dict(value)


_MAX_CONTEXT = 16 * 1024 * 1024

# Setting -> (environment variable, parser).
_KNOWN: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "home": ("FREEHOLD_HOME", _path),
    "host": ("FREEHOLD_HOST", _text),
    "port": ("FREEHOLD_PORT", _number(0, 65535)),
    "context": ("FREEHOLD_CONTEXT", _number(16, _MAX_CONTEXT)),
    "max_tokens": ("FREEHOLD_MAX_TOKENS", _number(1, _MAX_CONTEXT)),
    "parallel": ("FREEHOLD_PARALLEL", _number(1, 256)),
    "threads": ("FREEHOLD_THREADS", _number(1, 1024)),
    "deadline": ("FREEHOLD_DEADLINE", _number(1, 86400)),
    "cache_layout": ("FREEHOLD_CACHE_LAYOUT", _one_of("streams", "unified")),
    "cache_type": ("FREEHOLD_CACHE_TYPE", _one_of("f32", "f16", "bf16", "q8_0")),
    "flash_attention": ("FREEHOLD_FLASH_ATTENTION", _switch),
    "cells": ("FREEHOLD_CELLS", _number(16, _MAX_CONTEXT)),
    "prefix_memory": ("FREEHOLD_PREFIX_MEMORY", _number(0, 1024 * 1024)),
    "latency": ("FREEHOLD_LATENCY", _number(1, 60_000)),
    "speculate": ("FREEHOLD_SPECULATE", _switch),
    "offline": ("FREEHOLD_OFFLINE", _switch),
    "api_key": ("FREEHOLD_API_KEY", _text),
    "hub_endpoint": ("HF_ENDPOINT", _text),
    "hub_token": ("HF_TOKEN", _text),
    "aliases": ("FREEHOLD_ALIASES", _pairs),
    "policy": ("FREEHOLD_POLICY", _path),
    "log_level": ("FREEHOLD_LOG_LEVEL", _one_of("debug", "info", "warning", "error")),
}
_OTHER_VARIABLES = {"FREEHOLD_CONFIG"}


def _read_file(path: Path, *, required: bool) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise InvalidSetting(f"The configuration file {path} does not exist.") from None
        return {}
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"{path} is not valid TOML: {error}.") from error


def _reject_unknown(names: set[str], known: set[str], where: str) -> None:
    for name in sorted(names - known):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(known))}."
        raise InvalidSetting(f"{where} has no setting called {name}.", hint=hint)


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Merge flags (absent or None means not given), environment, file and defaults."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    variables = environment() if environ is None else environ
    named = variables.get("FREEHOLD_CONFIG")
    path = file or (Path(named) if named else default_file())
    stored = _read_file(path, required=file is not None or named is not None)
    _reject_unknown(set(stored), set(_KNOWN), str(path))
    ours = {name for name in variables if name.startswith("FREEHOLD_")}
    known_variables = {variable for variable, _ in _KNOWN.values()} | _OTHER_VARIABLES
    _reject_unknown(ours, known_variables, "The environment")

    values: dict[str, Any] = {"home": default_home()}
    origins = {item.name: "default" for item in dataclasses.fields(Settings)}
    for name, (variable, parse) in _KNOWN.items():
        if name in given:
            raw, origin = given[name], f"flag --{name.replace('_', '-')}"
        elif variables.get(variable):
            raw, origin = variables[variable], f"variable {variable}"
        elif name in stored:
            raw, origin = stored[name], f"file {path}"
        else:
            continue
        try:
            values[name] = parse(raw)
        except ValueError as error:
            shown = "its value" if name in ("api_key", "hub_token") else repr(raw)
            raise InvalidSetting(f"{name} {error}, but {shown} came from {origin}.") from None
        origins[name] = origin
    return Settings(**values, origins=origins)
