"""Upstreams: servers of others, or of ours elsewhere, whose models can be asked for here."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from freehold.domain.hosts import is_loopback

DEFAULT_PARALLEL = 32


class UpstreamKind(enum.StrEnum):
    """Whose server it is: which fields beyond OpenAI's it understands."""

    OPENAI = "openai"  # OpenAI's own fields and no more: the safe guess for an unknown server
    VLLM = "vllm"
    LLAMA_SERVER = "llama-server"
    FREEHOLD = "freehold"


@dataclass(frozen=True)
class Upstream:
    """One model that others run. ``name`` is what clients call it, ``model`` its name there.

    ``urls`` are its replicas, each as OpenAI's clients want it (``https://host/v1``). The key is
    what the variable ``key_variable`` holds; None: none was named, or the variable is not set.
    ``context`` is in tokens, None: not known. ``parallel`` requests are under way at once, over all
    replicas. ``plain_http``: the user wants http beyond this machine although others may read it.
    """

    name: str
    urls: tuple[str, ...]
    model: str
    kind: UpstreamKind = UpstreamKind.OPENAI
    key_variable: str | None = None
    context: int | None = None
    parallel: int = DEFAULT_PARALLEL
    plain_http: bool = False
    key: str | None = field(default=None, repr=False)

    @property
    def lacks_key(self) -> bool:
        """Whether a variable is named that is not set."""
        return self.key_variable is not None and self.key is None

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host and port of each replica, in their order."""
        return tuple(host_of(url) for url in self.urls)

    @property
    def beyond(self) -> tuple[str, ...]:
        """The hosts that are not this machine, each once."""
        found = (host_of(url) for url in self.urls if leaves(url))
        return tuple(dict.fromkeys(found))

    @property
    def destination(self) -> str:
        """One sentence's end: where what is asked of it goes."""
        if not self.beyond:
            return f"{' and '.join(dict.fromkeys(self.hosts))}, on this machine"
        return f"{' and '.join(self.beyond)}: prompts and answers leave this machine"

    def __str__(self) -> str:
        """As it would stand on a command line, after its name; without its key."""
        said = [",".join(self.urls)]
        if self.model != self.name:
            said.append(f"model={self.model}")
        if self.kind is not UpstreamKind.OPENAI:
            said.append(f"kind={self.kind}")
        if self.key_variable is not None:
            said.append(f"key_variable={self.key_variable}")
        if self.context is not None:
            said.append(f"context={self.context}")
        if self.parallel != DEFAULT_PARALLEL:
            said.append(f"parallel={self.parallel}")
        if self.plain_http:
            said.append("plain_http=true")
        return " ".join(said)


def host_of(url: str) -> str:
    """``gpu1:8000``; without the port where the address has none."""
    return urlsplit(url).netloc


def leaves(url: str) -> bool:
    """Whether what is sent there leaves this machine, by form alone: a name other than
    ``localhost`` does.
    """
    return not is_loopback(urlsplit(url).hostname or "")
