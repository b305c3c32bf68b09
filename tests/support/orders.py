"""Settings and orders of every kind, for what `freehold deploy` must hold of all of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from freehold.deploy import compose, kubernetes, systemd
from freehold.deploy.order import Cluster, File, Order, Target
from freehold.domain.setting_table import SETTINGS
from freehold.domain.setting_values import (
    Duration,
    Form,
    Location,
    Names,
    Number,
    OneOf,
    Origins,
    Pairs,
    Switch,
    Text,
)
from freehold.domain.settings import Settings
from freehold.domain.upstream_values import Upstreams
from freehold.domain.upstreams import Upstream, UpstreamKind

FILES = {
    Target.COMPOSE: compose.files,
    Target.KUBERNETES: kubernetes.files,
    Target.SYSTEMD: systemd.files,
}
SECRET = "sk-canary-"  # each secret has its own end
_TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("$%{}\"'\\#,=:\n"), min_size=1)
_HOSTS = st.sampled_from(["127.0.0.1", "localhost", "0.0.0.0", "::1", "10.1.2.3"])


def _pairs() -> st.SearchStrategy[Any]:
    names = st.lists(_TEXT, max_size=4, unique=True)
    return names.flatmap(
        lambda found: st.fixed_dictionaries({name: _TEXT.map("m:".__add__) for name in found})
    ).filter(lambda found: not set(found) & set(found.values()))


@st.composite
def _upstreams(draw: st.DrawFn) -> dict[str, Upstream]:
    hosts = st.sampled_from(["https://gpu.example/v1", "http://10.0.0.7:8000/v1"])
    return {
        name: Upstream(
            name=name,
            urls=tuple(draw(st.lists(hosts, min_size=1, max_size=2, unique=True))),
            model=draw(st.sampled_from([name, "Maker/Model-72B", "no"])),
            kind=draw(st.sampled_from(UpstreamKind)),
            key_variable=(variable := draw(st.sampled_from([None, "BIG_KEY", "OTHER_KEY"]))),
            context=draw(st.none() | st.integers(1024, 131072)),
            parallel=draw(st.integers(1, 64)),
            plain_http=True,
            key=None if variable is None else draw(st.sampled_from([None, f"{SECRET}upstream"])),
        )
        for name in draw(st.lists(st.sampled_from(["big", "big:70b"]), max_size=2, unique=True))
    }


_ORIGINS = st.sampled_from(["https://a.example", "http://[::1]:80"])
_LENGTHS = st.just(math.inf) | st.floats(0, 1e9) | st.integers(0, 10**6).map(float)
_ALIKE: dict[type[Form], st.SearchStrategy[Any]] = {
    Switch: st.booleans(),
    Duration: _LENGTHS,
    Names: st.lists(_TEXT, max_size=4).map(tuple),
    Origins: st.lists(_ORIGINS, max_size=2).map(tuple),
    Pairs: _pairs(),
    Location: _TEXT.map(lambda text: Path("/x") / text.replace("/", "_").replace("\0", "")),
    Text: _TEXT,
    Upstreams: _upstreams(),
}


def _value(form: Form) -> st.SearchStrategy[Any]:
    match form:
        case Number(low, high):
            return st.integers(low, high)
        case OneOf(names):
            return st.sampled_from(names)
        case _:
            return _ALIKE[type(form)]


def _own(name: str, form: Form) -> st.SearchStrategy[Any]:
    if name == "host":
        return _HOSTS
    if name == "port":
        return st.integers(1024, 65535)
    return _value(form)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Some at their default, others anything they may be."""
    values: dict[str, Any] = {"home": Path("/somewhere")}
    for setting in SETTINGS:
        if setting.secret:
            if draw(st.booleans()):
                values[setting.name] = SECRET + setting.name
        elif setting.name != "vllm" and draw(st.booleans()):  # refused where it cannot be
            values[setting.name] = draw(_own(setting.name, setting.form))
    return Settings(**values)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    gpus, machines = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    size = gpus * machines
    tensor = draw(st.sampled_from([each for each in range(1, size + 1) if size % each == 0]))
    return Cluster(
        model=draw(st.sampled_from(["qwen3:32b", "no", "0x10:1e3"])),
        image=draw(st.sampled_from(["vllm-ray:1", "registry.example/vllm@sha256:00"])),
        tensor=tensor,
        pipeline=size // tensor,
        gpus=gpus,
    )


@st.composite
def orders(draw: st.DrawFn, cluster: bool = False) -> Order:
    return Order(
        settings=draw(settings()),
        models=draw(st.sampled_from([(), ("qwen3:4b",), ("hf:o/r:a b$(X)%.gguf", "no")])),
        policy=draw(st.none() | _TEXT),
        gpus=draw(st.integers(0, 8)),
        namespaces=draw(st.sampled_from([(), ("web", "no")])),
        cluster=draw(clusters()) if cluster else None,
    )


def written(target: Target, order: Order) -> dict[str, str]:
    """Name → text."""
    files: tuple[File, ...] = FILES[target](order)
    assert len({file.name for file in files}) == len(files)
    return {file.name: file.text for file in files}
