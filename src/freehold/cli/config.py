"""`freehold config`: what is set, and by whom."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, print_table, settings_from
from freehold.domain.setting_table import SETTINGS, Group, Setting
from freehold.domain.setting_values import Number, Pairs
from freehold.domain.settings import (
    Settings,
    configuration_file,
    default_home,
    default_of,
    resolve,
    shown,
)
from freehold.domain.upstream_values import Upstreams

_HIDDEN = "(set)"


@click.command("config")
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Only say whether a configuration file is good.",
)
@click.option("--example", is_flag=True, help="Print a file with every setting, and what it is.")
@JSON_OPTION
def command(checked: Path | None, example: bool, as_json: bool) -> None:
    """Show the settings as commands find them now, and where each came from.

    Secrets are not shown. A flag of a command goes before all of these.
    """
    if example:
        click.echo(example_file(), nl=False)
    elif checked is not None:
        resolve(environ={}, file=checked)
        notice(f"{checked} is a good configuration file.")
    elif as_json:
        settings = settings_from()
        print_json({setting.name: _told(settings, setting) for setting in SETTINGS})
    else:
        _print(settings_from())


def _print(settings: Settings) -> None:
    rows = [
        (setting.name, _text(settings, setting), settings.origins[setting.name])
        for setting in SETTINGS
    ]
    print_table(("SETTING", "VALUE", "FROM"), rows)
    file = configuration_file()
    notice(f"The file is {file}{'' if file.exists() else ', which does not exist'}.")
    for upstream in settings.upstreams.values():
        notice(f"The upstream {upstream.name} is asked at {upstream.destination}.")


def _text(settings: Settings, setting: Setting) -> str:
    value = getattr(settings, setting.name)
    if value is None or value in ({}, ()):
        return default_of(setting).replace("`", "")
    return _HIDDEN if setting.secret else shown(value)


def _told(settings: Settings, setting: Setting) -> dict[str, Any]:
    value = getattr(settings, setting.name)
    if setting.secret:
        value = None if value is None else _HIDDEN
    elif isinstance(value, Path | float):
        value = shown(value)
    elif isinstance(value, Mapping):
        value = {name: str(each) for name, each in value.items()}
    return {
        "value": value,
        "from": settings.origins[setting.name],
        "variable": setting.variable,
        "flag": setting.serve_flag,
        "live": setting.live,
    }


def example_file() -> str:
    """A configuration file with every setting at its default, all of it comments."""
    lines = ["## freehold's settings. Take away the single # before what you change."]
    tables: list[str] = []  # they go last
    for group in Group:
        lines += ["", f"## {group}"]
        for setting in (setting for setting in SETTINGS if setting.group is group):
            if isinstance(setting.form, Pairs):
                tables += ["", *_comment(setting), f"# [{setting.name}]", *_PAIRS]
            elif isinstance(setting.form, Upstreams):
                tables += ["", *_comment(setting), f"# [{setting.name}.big]", *_UPSTREAM]
            else:
                lines += ["", *_comment(setting), f"# {setting.name} = {_example(setting)}"]
    return "\n".join([*lines, *tables]) + "\n"


_PAIRS = ('# "gpt-4o" = "qwen2.5-coder:0.5b"',)
_UPSTREAM = (
    '# urls = ["https://gpu1.example.org/v1", "https://gpu2.example.org/v1"]',
    '# model = "Qwen/Qwen3-8B"',
    '# kind = "vllm"',
    '# key_variable = "BIG_KEY"',
    "# context = 32768",
)


def _comment(setting: Setting) -> list[str]:
    taken = " A running server takes it on SIGHUP." if setting.live else ""
    text = f"{setting.plain}{taken} Default: {default_of(setting).replace('`', '')}."
    return textwrap.wrap(text, 98, initial_indent="## ", subsequent_indent="## ")


def _example(setting: Setting) -> str:
    """A value in TOML: the default, or where that is none, one that is allowed."""
    default = getattr(Settings(home=default_home()), setting.name)
    if default is None:
        default = setting.form.low if isinstance(setting.form, Number) else setting.form.metavar
    if isinstance(default, list | tuple):
        return f"[{', '.join(map(_toml, default))}]"
    return _toml(default)


def _toml(value: object) -> str:
    return shown(value) if isinstance(value, int) else f'"{shown(value)}"'
