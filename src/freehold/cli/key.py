"""`freehold key`: API keys, issued and revoked on the machine itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, print_table, settings_from
from freehold.runtime.access.keys import described, written

if TYPE_CHECKING:
    from freehold.runtime.access.key_file import KeyFile, Use


@click.group("key")
def command() -> None:
    """Issue, list and revoke API keys, and see what each has used.

    A running server takes note of every change at once.
    """


@command.command("create")
@click.option("--name", required=True, help="What to call it.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["infer", "manage"]),
    multiple=True,
    help="infer: ask models (the default); manage: pull, delete, load, hand out keys.",
)
@click.option(
    "--models",
    multiple=True,
    help="Only these, by name or pattern (qwen*); may be given several times (all).",
)
@click.option("--concurrency", type=int, help="Requests under way at once (any number).")
@click.option("--rate", type=int, help="Tokens a minute, prompts and answers together (any).")
@click.option("--weight", type=int, default=1, help="Share of turns against other keys (1).")
@click.option("--expires", help="After so long (30d, 12h), or at a time (2027-01-31).")
@JSON_OPTION
def create(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    concurrency: int | None,
    rate: int | None,
    weight: int,
    expires: str | None,
    as_json: bool,
) -> None:
    """Issue a key. It is shown once and cannot be found again."""
    from freehold.runtime.access.caller import Scope, Terms
    from freehold.runtime.access.keys import issue, moment

    now = time.time()
    terms = Terms(
        scopes=frozenset(map(Scope, scopes)) or frozenset({Scope.INFER}),
        models=models,
        concurrency=concurrency,
        rate=rate,
        weight=weight,
    )
    until = None if expires is None else moment(expires, now)
    issued = issue(name, terms, now=now, expires=until)
    with _file() as file:
        file.add(issued.key)
    if as_json:
        print_json({**described(issued.key, now), "key": issued.text})
        return
    click.echo(issued.text)
    notice(f"This is the key {name}. It is shown once: keep it now.")


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Revoked and expired ones too.")
@JSON_OPTION
def list_keys(everything: bool, as_json: bool) -> None:
    """List the keys in use."""
    now = time.time()
    with _file() as file:
        keys = [key for key in file.all() if everything or key.holds(now)]
    if as_json:
        print_json([described(key, now) for key in keys])
        return
    if not keys:
        notice("There is no key. Make one with: freehold key create --name NAME")
        return
    print_table(
        ("NAME", "SCOPE", "MODELS", "AT ONCE", "TOKENS/MIN", "WEIGHT", "EXPIRES", "STATE"),
        (
            (
                key.name,
                ",".join(sorted(key.terms.scopes)),
                ",".join(key.terms.models) or "all",
                _any(key.terms.concurrency),
                _any(key.terms.rate),
                str(key.terms.weight),
                written(key.expires) or "never",
                key.state(now),
            )
            for key in keys
        ),
    )


@command.command("revoke")
@click.argument("name")
@JSON_OPTION
def revoke(name: str, as_json: bool) -> None:
    """Revoke a key: from now on it opens nothing. Answers under way are finished."""
    now = time.time()
    with _file() as file:
        key = file.revoke(name, now)
    if as_json:
        print_json(described(key, now))
        return
    notice(f"The key {name} is revoked.")


@command.command("usage")
@click.argument("name", required=False)
@click.option("--days", type=click.IntRange(1, 3660), default=30, help="How far back (30).")
@click.option("--daily", is_flag=True, help="A line for each day.")
@JSON_OPTION
def usage(name: str | None, days: int, daily: bool, as_json: bool) -> None:
    """What each key has used. A running server writes it down every ten seconds."""
    from freehold.runtime.access.key_file import UnknownKey, totals
    from freehold.runtime.access.keys import ENVIRONMENT

    since = (datetime.now(UTC) - timedelta(days=days - 1)).date().isoformat()
    with _file() as file:
        names = {key.id: key.name for key in file.all()} | {ENVIRONMENT: ENVIRONMENT}
        if name is not None and name not in names.values():
            raise UnknownKey(name)
        uses = tuple(use for use in file.usage(since) if name in (None, names.get(use.key)))
    if not daily:
        uses = totals(uses, since)
    lines = [_line(names, use, "day" if daily else "since") for use in uses]
    if as_json:
        print_json(lines)
        return
    if not lines:
        notice(f"Nothing was used since {since}.")
        return
    headings = ("KEY", "DAY" if daily else "SINCE", "REQUESTS", "PROMPT", "CACHED", "ANSWERS")
    print_table(headings, ([str(value) for value in line.values()][1:] for line in lines))


def _line(names: dict[str, str], use: Use, when: str) -> dict[str, str | int]:
    return {
        "id": use.key,
        "name": names.get(use.key, use.key),
        when: use.day,
        "requests": use.requests,
        "prompt_tokens": use.prompt_tokens,
        "cached_tokens": use.cached_tokens,
        "completion_tokens": use.completion_tokens,
    }


def _any(number: int | None) -> str:
    return "any" if number is None else str(number)


@contextlib.contextmanager
def _file() -> Iterator[KeyFile]:
    from freehold.runtime.access.key_file import KeyFile

    with contextlib.closing(KeyFile.open(settings_from().home)) as file:
        yield file
