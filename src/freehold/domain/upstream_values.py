"""How the setting `upstreams` is read: tables in a file, words elsewhere.

    big=https://gpu1:8000/v1,https://gpu2:8000/v1 model=Qwen/Qwen3-8B key_variable=BIG_KEY

Semicolons between several.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from freehold.domain.setting_values import Form, Names, Number, OneOf, PartError, Switch, Text
from freehold.domain.upstreams import DEFAULT_PARALLEL, Upstream, UpstreamKind, leaves

NONE = "none"

_MAX_CONTEXT = 16 * 1024 * 1024
_MAX_REPLICAS = 64
# As short names of models are written: so it can be typed wherever one can.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}(:[a-z0-9][a-z0-9._-]{0,95})?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# They have a meaning of their own, and are promised to nobody else.
_TAKEN = ("HF_TOKEN",)

_OPTIONS: Mapping[str, Form] = {
    "urls": Names("URL"),
    "model": Text(),
    "kind": OneOf(tuple(UpstreamKind)),
    "key_variable": Text(),
    "context": Number(16, _MAX_CONTEXT),
    "parallel": Number(1, 4096),
    "plain_http": Switch(),
}


@dataclass(frozen=True)
class Upstreams:
    """Tables, or words as above; ``none`` for none, where the file has some."""

    metavar: str = "NAME=URL"

    def __call__(self, value: Any) -> Mapping[str, Upstream]:
        tables = value if isinstance(value, Mapping) else _tables(value)
        return {name: _upstream(name, table) for name, table in tables.items()}


def _tables(value: Any) -> Mapping[str, Any]:
    """From words to what the file would have."""
    if value in (NONE, (NONE,), [NONE]):
        return {}
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list | tuple):
        raise ValueError("must be tables, each with urls")
    tables: dict[str, Any] = {}
    for text in map(str, value):
        if not text.strip():
            continue
        name, sign, rest = text.strip().partition("=")
        if not sign or not rest.split():
            raise ValueError("must be a name and an address, as in big=https://host/v1")
        if name in tables:
            raise ValueError(f"has {name} twice")
        tables[name] = rest
    return tables


def _options(name: str, value: Any) -> Mapping[str, Any]:
    """The options of one upstream, not looked at yet."""
    if isinstance(value, Mapping):
        return value
    words = value.split() if isinstance(value, str) else []
    if not words:
        raise PartError("must be a table with urls", (name,), value)
    options: dict[str, str] = {"urls": words[0]}
    for word in words[1:]:
        key, sign, text = word.partition("=")
        if not sign or key in options:
            raise PartError("must be an address, then options such as model=NAME", (name,), word)
        options[key] = text
    return options


def _upstream(name: Any, value: Any) -> Upstream:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PartError("is no name for a model: write it in lower case, as in big:70b", (name,))
    options = _options(name, value)
    read: dict[str, Any] = {}
    for key, raw in options.items():
        if key not in _OPTIONS:
            near = difflib.get_close_matches(key, _OPTIONS, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(_OPTIONS)}"
            raise PartError(f"is nothing an upstream has ({known})", (name, key), raw)
        try:
            read[key] = _OPTIONS[key](raw)
        except ValueError as error:
            raise PartError(str(error), (name, key), None if key == "urls" else raw) from None
    return _whole(name, read)


def _whole(name: str, read: dict[str, Any]) -> Upstream:
    """What the parts make together. Addresses are not quoted: one may carry a password."""
    urls = read.get("urls", ())
    if not 0 < len(urls) <= _MAX_REPLICAS:
        raise PartError(f"must be 1 to {_MAX_REPLICAS} addresses", (name, "urls"))
    plain = read.get("plain_http", False)
    urls = tuple(_address(name, url, plain_http=plain) for url in urls)
    if len(set(urls)) < len(urls):
        raise PartError("has an address twice", (name, "urls"))
    return Upstream(
        name=name,
        urls=urls,
        model=read.get("model", name),
        kind=UpstreamKind(read.get("kind", UpstreamKind.OPENAI)),
        key_variable=_variable(name, read.get("key_variable")),
        context=read.get("context"),
        parallel=read.get("parallel", DEFAULT_PARALLEL),
        plain_http=plain,
    )


def _variable(name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    if not _VARIABLE.fullmatch(variable):
        # Perhaps somebody has written the key itself here.
        raise PartError("must be the name of a variable, not the key", (name, "key_variable"))
    if variable.startswith("FREEHOLD_") or variable in _TAKEN:
        raise PartError(
            "must be a variable of its own: this one has another meaning",
            (name, "key_variable"),
            variable,
        )
    return variable


def _address(name: str, text: str, *, plain_http: bool) -> str:
    """An address as it is asked: without a slash at its end, with ``/v1`` where it has no path."""
    path = (name, "urls")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise PartError("must be addresses, as in https://host:8000/v1", path) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isascii():
        raise PartError("must be addresses, as in https://host:8000/v1", path)
    if parts.username is not None or parts.password is not None:
        raise PartError("must not carry a user or a password: name a key_variable", path)
    if parts.query or parts.fragment or port == 0 or any(c.isspace() for c in text):
        raise PartError("must be addresses without a query, as in https://host:8000/v1", path)
    if parts.scheme == "http" and leaves(text) and not plain_http:
        raise PartError(
            f"asks {parts.netloc} without encryption, so that others on the way could read the "
            "prompts and the key: use https, or say plain_http = true if that is meant",
            path,
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/') or '/v1'}"
