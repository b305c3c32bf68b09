"""Every setting: its name, its variable, how it is read and what it is for.

The one source of `--help`, of ``docs/configuration.md`` and of ``freehold config --example``.
A field of `Settings` holds its value.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from freehold.domain.engine import Quantization
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
from freehold.domain.upstream_values import Upstreams


class Group(enum.StrEnum):
    """The headings of the documentation, in its order."""

    SERVER = "The server"
    ANSWERS = "Answers"
    ENGINE = "The engine"
    MODELS = "Models and where they come from"
    LOG = "The log"


@dataclass(frozen=True)
class Setting:
    """``what`` is Markdown: what it is, and why that default; its first sentence is its help.

    ``default`` says in words what the default is where its value does not. ``flag`` is that of
    `serve`; None with ``flagless``, the reason. ``live``: a running server takes a new value on
    SIGHUP.
    """

    name: str
    variable: str
    form: Form
    group: Group
    what: str
    default: str | None = None
    flag: str | None = ""
    flagless: str | None = None
    secret: bool = False
    live: bool = False

    @property
    def serve_flag(self) -> str | None:
        """``--log-level``."""
        return self.flag if self.flag != "" else f"--{self.name.replace('_', '-')}"

    @property
    def plain(self) -> str:
        """``what`` without its Markdown."""
        aside = re.sub(r" \(\[[^]]*\]\([^)]*\)\)", "", self.what)
        return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", aside).replace("`", "")

    @property
    def help(self) -> str:
        return re.split(r"(?<=[.])\s", self.plain, maxsplit=1)[0]


_MAX_CONTEXT = 16 * 1024 * 1024
_SEEN_BY_ALL = "a command line can be read by every user of the machine"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "host",
        "FREEHOLD_HOST",
        Text("ADDRESS"),
        Group.SERVER,
        "Where `serve` listens. Beyond loopback a key is required, so the default needs none.",
    ),
    Setting(
        "port",
        "FREEHOLD_PORT",
        Number(0, 65535, "PORT"),
        Group.SERVER,
        "The port `serve` listens on; 0 takes a free one. Not the default of a program people run "
        "beside this one (11434, 8080, 8000, 1234), so both can run.",
    ),
    Setting(
        "api_key",
        "FREEHOLD_API_KEY",
        Text(),
        Group.SERVER,
        "What clients must send as `Authorization: Bearer …` or `x-api-key`.",
        flag=None,
        flagless=_SEEN_BY_ALL,
        secret=True,
    ),
    Setting(
        "deadline",
        "FREEHOLD_DEADLINE",
        Number(1, 86400, "SECONDS"),
        Group.SERVER,
        "Seconds a request may wait for its first token: for a model to load, a worker to restart, "
        "its turn to come. Then it gets 503. Ten minutes is what OpenAI's client waits.",
        live=True,
    ),
    Setting(
        "queue",
        "FREEHOLD_QUEUE",
        Number(0, 100_000, "REQUESTS"),
        Group.SERVER,
        "Requests that may wait for each model; one more gets 429 and when to come back. A request "
        "that waits costs a connection and some kilobytes, so the default is about what a team can "
        "send at once; those that wait too long end at their deadline "
        "([whose turn it is](keys.md#whose-turn-it-is)).",
    ),
    Setting(
        "connections",
        "FREEHOLD_CONNECTIONS",
        Number(1, 100_000),
        Group.SERVER,
        "Connections the server holds at once; it closes one more with 503. More than wait and run "
        "together by default, and few enough that slow clients cannot take every file the system "
        "grants one process.",
    ),
    Setting(
        "require_keys",
        "FREEHOLD_REQUIRE_KEYS",
        Switch(),
        Group.SERVER,
        "Ask for an API key on loopback as well ([keys](keys.md)). Beyond loopback one is always "
        "needed. Programs made for one person's machine send none, so the default asks for none.",
    ),
    Setting(
        "hosts",
        "FREEHOLD_HOSTS",
        Names("NAME"),
        Group.SERVER,
        "Further names, besides those of loopback, under which a server without keys may be "
        "asked: a proxy's, for example. None, because a web page can give this "
        "machine's address a name of its own ([security](keys.md#web-pages)).",
        default="none",
        flag="--allow-host",
    ),
    Setting(
        "cors_origins",
        "FREEHOLD_CORS_ORIGINS",
        Origins(),
        Group.SERVER,
        "Web pages of others that may use this server, by origin: `https://chat.example.org`, "
        "exactly, with its port if it has one. None, and never all "
        "([security](keys.md#web-pages)).",
        default="none",
        flag="--cors-origin",
    ),
    Setting(
        "drain",
        "FREEHOLD_DRAIN",
        Number(0, 86400, "SECONDS"),
        Group.SERVER,
        "Seconds that answers under way may go on after SIGTERM or Ctrl-C. What is not over by "
        "then ends with an error that says so. Half a minute is a long answer's end on a slow "
        "machine, and well within what service managers wait before they kill.",
        live=True,
    ),
    Setting(
        "conversations",
        "FREEHOLD_CONVERSATIONS",
        Switch(),
        Group.SERVER,
        "Keep the conversations of the page on disk, in `state/conversations.sqlite` of the store. "
        "With `false` they are in memory alone, and gone when the server ends.",
    ),
    Setting(
        "max_tokens",
        "FREEHOLD_MAX_TOKENS",
        Number(1, _MAX_CONTEXT, "TOKENS"),
        Group.ANSWERS,
        "The length of an answer where a request names none. None means: as much as the context "
        "has room for. Cutting answers at a number nobody asked for would be worse than a long "
        "one; an answer that is cut says so (`finish_reason: length`).",
        live=True,
    ),
    Setting(
        "aliases",
        "FREEHOLD_ALIASES",
        Pairs(),
        Group.ANSWERS,
        "Further names of models, for clients that insist on one. A table in the file, "
        "`gpt-4o=qwen2.5-coder:0.5b` (commas between several) in the variable, `--alias` on "
        "`serve`. Answers name the real model.",
        default="none",
        flag="--alias",
        live=True,
    ),
    Setting(
        "context",
        "FREEHOLD_CONTEXT",
        Number(16, _MAX_CONTEXT, "TOKENS"),
        Group.ENGINE,
        "Tokens each sequence can hold, prompt and answer together; never more than the model was "
        "trained for. Room for a reasoning model to think, or for some 20 pages of text; for an "
        "8 B model it costs about 1 GB per sequence, a small part of what its weights take. Where "
        "vLLM has cards, the default is as many as they hold ([vLLM](vllm.md#cards)).",
    ),
    Setting(
        "parallel",
        "FREEHOLD_PARALLEL",
        Number(1, 256),
        Group.ENGINE,
        "Sequences one model runs at once; more requests wait their turn. Memory for the context "
        "is taken for each, so more is not free. Four serve a person whose chat program asks for "
        "titles and whose editor completes code meanwhile; set more for a team.",
    ),
    Setting(
        "threads",
        "FREEHOLD_THREADS",
        Number(1, 1024),
        Group.ENGINE,
        "Threads each model computes with. Containers and CPU affinity are respected.",
        default="every core we may use",
    ),
    Setting(
        "cache_layout",
        "FREEHOLD_CACHE_LAYOUT",
        OneOf(("streams", "unified")),
        Group.ENGINE,
        "`streams`: each sequence has `context` cells of its own; `unified`: all share `cells`. "
        "See [the engine](engine.md), for this and the next six.",
    ),
    Setting(
        "cache_type",
        "FREEHOLD_CACHE_TYPE",
        OneOf(("f32", "f16", "bf16", "q8_0")),
        Group.ENGINE,
        "How the key-value cache is stored: `f32`, `f16`, `bf16` or `q8_0` (which needs flash "
        "attention).",
    ),
    Setting(
        "flash_attention",
        "FREEHOLD_FLASH_ATTENTION",
        Switch(),
        Group.ENGINE,
        "The fused attention kernel; on a CPU it halves the speed of a deep sequence.",
    ),
    Setting(
        "cells",
        "FREEHOLD_CELLS",
        Number(16, _MAX_CONTEXT, "TOKENS"),
        Group.ENGINE,
        "Tokens that all sequences of a unified cache hold together.",
        default="`context` times `parallel`",
    ),
    Setting(
        "prefix_memory",
        "FREEHOLD_PREFIX_MEMORY",
        Number(0, 1024 * 1024, "MIB"),
        Group.ENGINE,
        "MiB of ordinary memory, for each model, that keep the prefixes of finished requests. "
        "0: none.",
    ),
    Setting(
        "latency",
        "FREEHOLD_LATENCY",
        Number(1, 60_000, "MS"),
        Group.ENGINE,
        "Milliseconds between tokens that reading another prompt must respect, where the machine "
        "can. Less is smoother and, on a slow machine, gets less done.",
    ),
    Setting(
        "speculate",
        "FREEHOLD_SPECULATE",
        Switch(),
        Group.ENGINE,
        "Guess tokens that repeat what was said before. Never changes an answer.",
    ),
    Setting(
        "profiles",
        "FREEHOLD_PROFILES",
        Switch(),
        Group.ENGINE,
        "Load a model as `freehold tune` has found best on this machine ([tuning](tuning.md)). "
        "What you set yourself goes before it.",
        flag="--profile",
    ),
    Setting(
        "vllm",
        "FREEHOLD_VLLM",
        Names(),
        Group.ENGINE,
        "Models that vLLM runs instead of llama.cpp ([vLLM](vllm.md)): a list in the file, commas "
        "between several elsewhere.",
        default="none",
    ),
    Setting(
        "tensor_parallel",
        "FREEHOLD_TENSOR_PARALLEL",
        Number(1, 64, "CARDS"),
        Group.ENGINE,
        "Cards that share each layer of a model that vLLM runs. Where neither this nor the next is "
        "set, as few cards are taken as hold it ([vLLM](vllm.md#cards)).",
        default="as many as it needs",
    ),
    Setting(
        "pipeline_parallel",
        "FREEHOLD_PIPELINE_PARALLEL",
        Number(1, 64, "GROUPS"),
        Group.ENGINE,
        "Groups of cards that share the layers of a model that vLLM runs.",
        default="as many as it needs",
    ),
    Setting(
        "quantization",
        "FREEHOLD_QUANTIZATION",
        OneOf(tuple(map(str, Quantization))),
        Group.ENGINE,
        "How vLLM makes weights of 16 bits smaller while it loads them, in its own words "
        "([quantisation](vllm.md#quantisation)). Weights that are quantised already stay as they "
        "are.",
    ),
    Setting(
        "lora_slots",
        "FREEHOLD_LORA_SLOTS",
        Number(0, 64, "ADAPTERS"),
        Group.ENGINE,
        "LoRA adapters that a model run by vLLM can have in force at once; each slot takes memory.",
    ),
    Setting(
        "home",
        "FREEHOLD_HOME",
        Location(),
        Group.MODELS,
        "The store: weights, manifests, state. On Linux `~/.local/share/freehold`.",
        default="your data folder",
    ),
    Setting(
        "offline",
        "FREEHOLD_OFFLINE",
        Switch(),
        Group.MODELS,
        "Fetch nothing, and connect to nothing but this machine "
        "([how it is enforced](trust.md#does-anything-leave-this-machine)).",
    ),
    Setting(
        "policy",
        "FREEHOLD_POLICY",
        Location("FILE"),
        Group.MODELS,
        "The file that says what to do about verdicts on licences ([trust](trust.md#deciding)).",
        default="`policy.toml` beside this file",
    ),
    Setting(
        "memory_budget",
        "FREEHOLD_MEMORY_BUDGET",
        Number(1, 64 * 1024 * 1024, "MIB"),
        Group.MODELS,
        "MiB that all models together may take. None means what the machine or the container has, "
        "less a seventh (2 GiB at most), and no more than other programs leave free "
        "([many models](models.md)).",
        default="what the machine can spare",
    ),
    Setting(
        "keep_alive",
        "FREEHOLD_KEEP_ALIVE",
        Duration(),
        Group.MODELS,
        "How long a model stays in memory that nobody uses: `30m`, `300` (seconds), `0`, "
        "`forever`. Half an hour outlasts a pause in a conversation, whose prefix is kept only as "
        "long as the model is, and gives a laptop its memory back in the evening. Models named "
        "to `serve` stay until their room is needed; a request of Ollama's clients may say "
        "otherwise.",
        default="30m",
    ),
    Setting(
        "pin",
        "FREEHOLD_PIN",
        Names(),
        Group.MODELS,
        "Models that are loaded when the server starts, and never leave for others or for their "
        "age: a list in the file, commas between several elsewhere.",
        default="none",
    ),
    Setting(
        "upstreams",
        "FREEHOLD_UPSTREAMS",
        Upstreams(),
        Group.MODELS,
        "Models of other servers, asked through OpenAI's API ([upstreams](upstream.md)). What is "
        "asked of one leaves this machine, unless the server runs on it. Tables in the file; "
        "`big=https://host/v1 model=NAME` elsewhere, semicolons between several, and `none` for "
        "none. None, because nothing leaves this machine unless somebody says so.",
        default="none",
        flag="--upstream",
    ),
    Setting(
        "hub_endpoint",
        "HF_ENDPOINT",
        Text("URL"),
        Group.MODELS,
        "A mirror of the Hugging Face hub.",
        default="the public hub",
    ),
    Setting(
        "hub_token",
        "HF_TOKEN",
        Text(),
        Group.MODELS,
        "For gated repositories. Sent to the hub and nobody else.",
        flag=None,
        flagless=_SEEN_BY_ALL,
        secret=True,
    ),
    Setting(
        "log_level",
        "FREEHOLD_LOG_LEVEL",
        OneOf(("debug", "info", "warning", "error")),
        Group.LOG,
        "How much is logged: `debug`, `info`, `warning` or `error`. `info` has a line for each "
        "request. Logs never contain prompts.",
        live=True,
    ),
    Setting(
        "log_format",
        "FREEHOLD_LOG_FORMAT",
        OneOf(("text", "json")),
        Group.LOG,
        "`text` for people; `json`, one object a line, for programs.",
        live=True,
    ),
)
KNOWN = {setting.name: setting for setting in SETTINGS}
