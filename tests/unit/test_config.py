"""`freehold config`, and the flags that are made from the settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from freehold.cli import config, serve
from freehold.cli.config import example_file
from freehold.cli.setting_flags import given_flags, setting_flags
from freehold.domain.errors import InvalidSetting
from freehold.domain.setting_table import SETTINGS
from freehold.domain.settings import resolve

SECRET = "sk-do-not-show-me"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    path.touch()
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("FREEHOLD_CONFIG", str(path))
    return path


def said(*arguments: str) -> str:
    return CliRunner().invoke(config.command, arguments, catch_exceptions=False).stdout


def test_every_setting_is_a_flag_of_serve_or_says_why_not() -> None:
    flags = {flag for option in serve.command.params for flag in option.opts}
    for setting in SETTINGS:
        if setting.serve_flag is None:
            assert setting.flagless, setting.name
        else:
            assert setting.serve_flag in flags


def test_flags_that_were_given_and_those_that_were_not() -> None:
    @click.command()
    @setting_flags
    def command() -> None:
        click.echo(json.dumps({k: v for k, v in given_flags().items() if v is not None}))

    run = CliRunner().invoke(
        command, ["--port", "0", "--no-speculate", "--alias", "a=b", "--alias", "c=d"]
    )
    assert json.loads(run.stdout) == {"port": "0", "speculate": False, "aliases": ["a=b", "c=d"]}


def test_values_and_where_they_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f'parallel = 3\napi_key = "{SECRET}"')
    monkeypatch.setenv("FREEHOLD_CONTEXT", "512")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in said().splitlines()}
    assert re.fullmatch(rf"3 +file {re.escape(str(file))}", rows["parallel"])
    assert re.fullmatch(r"512 +variable FREEHOLD_CONTEXT", rows["context"])
    assert re.fullmatch(r"7333 +default", rows["port"])
    told = json.loads(said("--json"))
    assert set(told) == {setting.name for setting in SETTINGS} == set(rows) - {"SETTING"}
    assert told["parallel"]["value"] == 3
    assert SECRET not in said() + said("--json")


def test_the_example_is_good_as_it_is_and_with_every_line_put_in(file: Path) -> None:
    file.write_text(example_file())
    assert resolve(environ={}, file=file) == resolve(environ={}, file=Path("/dev/null"))
    file.write_text(re.sub(r"^# ", "", example_file(), flags=re.MULTILINE))
    origins = resolve(environ={}, file=file).origins
    assert {name for name, origin in origins.items() if origin == "default"} == {"origins"}


def test_a_file_is_checked_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_PORT", "nonsense")
    file.write_text("port = 80")
    assert said("--check", str(file)) == ""
    file.write_text("\nport = -1")
    with pytest.raises(InvalidSetting, match=r"config\.toml, line 2"):
        said("--check", str(file))
