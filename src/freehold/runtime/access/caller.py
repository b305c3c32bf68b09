"""Who a request comes from, and what they may.

The guard of the API says who it is before anything else runs. It is a context variable: tasks and
threads begun for a request have it as well, so nothing on the way can forget to hand it on. What
belongs to no request (the command line, a server's own work) is the owner's.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass


class Scope(enum.StrEnum):
    """What a key may do. ``manage`` fetches, deletes, loads and hands out keys; it does not
    include ``infer``."""

    INFER = "infer"
    MANAGE = "manage"


@dataclass(frozen=True)
class Terms:
    """What holds for one caller.

    ``models`` are patterns of the shell for the names of models, as listings show them; empty: all.
    ``concurrency`` is how many requests may be under way at once, ``rate`` how many tokens a minute
    they may take, prompts and answers together; None: any number. ``weight`` is the share of turns
    against other callers.
    """

    scopes: frozenset[Scope] = frozenset(Scope)
    models: tuple[str, ...] = ()
    concurrency: int | None = None
    rate: int | None = None
    weight: int = 1

    def allow(self, model: str) -> bool:
        return not self.models or any(fnmatch.fnmatchcase(model, each) for each in self.models)


@dataclass(frozen=True)
class Caller:
    """``id`` is ours and never a client's choice: prefixes and kept responses are shared within it.

    ``name`` is for people.
    """

    id: str
    name: str
    terms: Terms = Terms()

    def may(self, scope: Scope) -> bool:
        return scope in self.terms.scopes


# Whoever needs no key: on loopback, the person whose machine it is.
OWNER = Caller("local", "local")
# Whoever has shown no key where one is needed: sees what is public, and no model.
NOBODY = Caller("nobody", "nobody", Terms(scopes=frozenset(), models=("",)))

_current: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=OWNER)


def current_caller() -> Caller:
    return _current.get()


@contextlib.contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """What runs inside is done for ``caller``."""
    before = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(before)


def may_see(model: str) -> bool:
    """Whether the caller of the moment may know of a model, by its own name."""
    return current_caller().terms.allow(model)
