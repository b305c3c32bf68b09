"""The flags that stand for settings, made from their table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from freehold.domain.setting_table import SETTINGS, Setting
from freehold.domain.setting_values import Names, Origins, Pairs, Switch
from freehold.domain.settings import default_of
from freehold.domain.upstream_values import Upstreams

_META = "freehold.settings"

F = TypeVar("F", bound=Callable[..., Any])


def setting_flags(command: F) -> F:
    """A flag for every setting that has one. They are no arguments of ``command``, which asks
    `given_flags` for them.
    """
    for setting in reversed(SETTINGS):
        if setting.serve_flag is not None:
            command = _option(setting, setting.serve_flag)(command)
    return command


def given_flags() -> dict[str, Any]:
    """By setting; None: not given. Inside a command."""
    found: dict[str, Any] = click.get_current_context().meta.get(_META, {})
    return found


def _option(setting: Setting, flag: str) -> Callable[[F], F]:
    default = default_of(setting).replace("`", "")
    told = f"{setting.help.removesuffix('.')} ({default})."
    switch = isinstance(setting.form, Switch)
    return click.option(
        f"{flag}/--no-{flag.removeprefix('--')}" if switch else flag,
        setting.name,
        default=None,
        multiple=isinstance(setting.form, Pairs | Origins | Names | Upstreams),
        expose_value=False,
        callback=_keep,
        help=told,
        metavar=None if switch else setting.form.metavar,
    )


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    assert parameter.name is not None
    context.meta.setdefault(_META, {})[parameter.name] = None if value == () else value
