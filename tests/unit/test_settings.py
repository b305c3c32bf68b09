"""Settings: flag, then environment, then file, then default; and what is said of bad ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from freehold.domain.errors import InvalidSetting
from freehold.domain.setting_table import KNOWN, SETTINGS, Group
from freehold.domain.settings import (
    DEFAULT_PORT,
    Settings,
    as_variables,
    changed,
    default_home,
    resolve,
)
from freehold.domain.toml_lines import line_of
from tests.support import setting_docs

SECRET = "hf_do_not_show_me"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.touch()
    return path


def refused(
    file: Path, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> InvalidSetting:
    with pytest.raises(InvalidSetting) as caught:
        resolve(flags, environ=environ or {}, file=file)
    return caught.value


def test_each_source_wins_over_the_next(file: Path) -> None:
    file.write_text("port = 3")
    flags, environ = {"port": 1}, {"FREEHOLD_PORT": "2"}
    ports = [
        resolve(flags, environ=environ, file=file),
        resolve({"port": None}, environ=environ, file=file),
        resolve(environ={}, file=file),
        resolve(environ={"FREEHOLD_CONFIG": str(file), "FREEHOLD_PORT": ""}),
    ]
    assert [settings.port for settings in ports] == [1, 2, 3, 3]
    assert [settings.origins["port"] for settings in ports] == [
        "flag --port",
        "variable FREEHOLD_PORT",
        f"file {file}",
        f"file {file}",
    ]


def test_defaults(file: Path) -> None:
    settings = resolve(environ={}, file=file)
    assert settings == Settings(home=default_home())
    assert settings.port == DEFAULT_PORT
    assert settings.host == "127.0.0.1"
    assert not settings.offline
    assert set(settings.origins.values()) == {"default"}
    assert set(settings.origins) == {field.name for field in dataclasses.fields(Settings)}


def test_zero_and_false_are_given(file: Path) -> None:
    file.write_text("port = 80\noffline = true")
    settings = resolve({"port": 0, "offline": False}, environ={}, file=file)
    assert (settings.port, settings.offline) == (0, False)


def test_every_kind_of_value(file: Path) -> None:
    file.write_text('home = "~/models"\noffline = true\nthreads = 3\nlog_level = "debug"')
    settings = resolve(environ={"FREEHOLD_MAX_TOKENS": "12"}, file=file)
    assert settings.home == Path.home() / "models"
    assert settings.offline is True
    assert (settings.threads, settings.max_tokens) == (3, 12)
    assert settings.log_level == "debug"


def test_the_hubs_own_variables(file: Path) -> None:
    environ = {"HF_TOKEN": SECRET, "HF_ENDPOINT": "https://hub.example"}
    settings = resolve(environ=environ, file=file)
    assert (settings.hub_token, settings.hub_endpoint) == (SECRET, "https://hub.example")
    assert settings.origins["hub_token"] == "variable HF_TOKEN"


@pytest.mark.parametrize("value", ["yes", "TRUE", "1"])
def test_switched_on(file: Path, value: str) -> None:
    assert resolve(environ={"FREEHOLD_OFFLINE": value}, file=file).offline


@pytest.mark.parametrize("value", ["no", "False", "0"])
def test_switched_off(file: Path, value: str) -> None:
    file.write_text("offline = true")
    assert not resolve(environ={"FREEHOLD_OFFLINE": value}, file=file).offline


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "ninety"),
        ("port", "70000"),
        ("port", "80.5"),
        ("context", "0"),
        ("parallel", "0"),
        ("threads", "-1"),
        ("deadline", "0"),
        ("offline", "maybe"),
        ("log_level", "loud"),
        ("aliases", "gpt-4o"),
        ("aliases", "=tiny"),
        ("aliases", "a=b,b=a"),
    ],
)
def test_a_bad_value_is_named_with_where_it_came_from(file: Path, name: str, value: str) -> None:
    variable = f"FREEHOLD_{name.upper()}"
    by_variable = refused(file, environ={variable: value}).message
    assert by_variable.startswith(f"{name} must be ")
    assert repr(value) in by_variable
    assert f"variable {variable}" in by_variable

    by_flag = refused(file, {name: value}).message
    assert f"flag {KNOWN[name].serve_flag}" in by_flag

    file.write_text(f'\n{name} = "{value}"')
    assert f"file {file}, line 2" in refused(file).message


def test_aliases_from_every_source(file: Path) -> None:
    wanted = {"gpt-4o": "qwen3:4b", "claude": "tiny"}
    file.write_text('[aliases]\n"gpt-4o" = "qwen3:4b"\nclaude = "tiny"\n')
    assert resolve(environ={}, file=file).aliases == wanted
    file.write_text("")
    environ = {"FREEHOLD_ALIASES": "gpt-4o=qwen3:4b, claude = tiny"}
    assert resolve(environ=environ, file=file).aliases == wanted
    flags = {"aliases": ("gpt-4o=qwen3:4b", "claude=tiny")}
    assert resolve(flags, environ={}, file=file).aliases == wanted


@pytest.mark.parametrize("value", ["80.5", "true", "1e3"])
def test_a_number_in_the_file_is_a_whole_one(file: Path, value: str) -> None:
    file.write_text(f"port = {value}")
    assert "must be a whole number" in refused(file).message


def test_a_bad_value_that_a_better_source_overrides_is_not_looked_at(file: Path) -> None:
    file.write_text('port = "ninety"')
    assert resolve({"port": 1}, environ={}, file=file).port == 1


@pytest.mark.parametrize("name", ["api_key", "hub_token"])
def test_a_secret_is_in_no_message(file: Path, name: str) -> None:
    file.write_text(f'{name} = ["{SECRET}"]')
    error = refused(file)
    assert SECRET not in error.message
    assert SECRET not in (error.hint or "")
    assert name in error.message


def test_a_secret_is_in_no_repr(file: Path) -> None:
    settings = resolve({"api_key": SECRET, "hub_token": SECRET}, environ={}, file=file)
    assert settings.api_key == settings.hub_token == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.origins)


def test_an_unknown_setting_with_a_near_one(file: Path) -> None:
    file.write_text("paralel = 3")
    error = refused(file)
    assert "paralel" in error.message
    assert str(file) in error.message
    assert error.hint == "Did you mean parallel?"


def test_an_unknown_setting_with_none_near(file: Path) -> None:
    file.write_text("zzz = 3")
    assert "parallel" in (refused(file).hint or "")


def test_an_unknown_variable_with_a_near_one(file: Path) -> None:
    error = refused(file, environ={"FREEHOLD_HOMES": "/x"})
    assert "FREEHOLD_HOMES" in error.message
    assert error.hint == "Did you mean FREEHOLD_HOME?"


def test_other_programs_variables_are_not_ours(file: Path) -> None:
    assert resolve(environ={"PATH": "/bin", "LLAMA_PORT": "x"}, file=file).port == DEFAULT_PORT


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    assert str(missing) in refused(missing).message
    with pytest.raises(InvalidSetting, match=r"no\.toml does not exist"):
        resolve(environ={"FREEHOLD_CONFIG": str(missing)})


def test_a_file_that_is_no_toml(file: Path) -> None:
    file.write_text("port: 3")
    message = refused(file).message
    assert "not valid TOML" in message
    assert "line 1" in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path).message


def test_the_table_is_the_settings_and_nothing_else() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)} - {"origins"}
    assert {setting.name for setting in SETTINGS} == fields
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)


def test_the_page_says_what_the_table_says() -> None:
    page = setting_docs.PAGE.read_text("utf-8")
    assert page == setting_docs.written(page), "run: python -m tests.support.setting_docs"


def test_what_a_running_server_takes(file: Path) -> None:
    before = resolve(environ={}, file=file)
    file.write_text('context = 512\nlog_level = "info"\nmax_tokens = 5')
    live, waiting = changed(before, resolve(environ={}, file=file))
    assert {setting.name for setting in live} == {"log_level", "max_tokens"}
    assert [setting.name for setting in waiting] == ["context"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port = 1", 1),
        ("# port = 1\n\nport = 1", 3),
        ("import = 1\nport = 2", 2),
        ("a = '''\nport = 1\n'''\nport = 2", 4),
        ("a = [\n1, # port = 1\n]\nport = [\n1\n]\nb = 1", 4),
        ('"port" = 1', 1),
        ("a = 1\n[port]\nx = 1", 2),
        ("a = 1\n[port.x]\ny = 1", 2),
        ("a = 'port'\n[b]\nport = 1", None),
        ('"p\\u006frt" = 1', None),
        ("", None),
    ],
)
def test_the_line_of_a_key(text: str, line: int | None) -> None:
    assert line_of(text, "port") == line


def test_the_line_of_an_unknown_setting(file: Path) -> None:
    file.write_text("port = 1\n\n[aliasses]\na = 'b'\n")
    assert f"{file}, line 3" in refused(file).message


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"port = 1 # \xff")
    assert "not UTF-8" in refused(file).message
    file.write_bytes(b"#" * (256 * 1024 + 1))
    assert "too long" in refused(file).message
    file.write_text("port = " + "[" * 100_000)
    refused(file)


def test_another_process_of_ours_is_told_what_was_set_and_no_secret(file: Path) -> None:
    file.write_text("threads = 3\nprefix_memory = 64\nport = 8000\n")
    environ = {"FREEHOLD_CACHE_TYPE": "q8_0", "FREEHOLD_API_KEY": "k" * 20}
    settings = resolve({"parallel": 2, "home": "/somewhere"}, environ=environ, file=file)
    told = as_variables(settings, (Group.ENGINE, Group.SERVER))
    assert told["FREEHOLD_HOME"] == "/somewhere"
    assert told["FREEHOLD_PORT"] == "8000"
    assert not any("k" * 20 in value for value in told.values())
    again = resolve({}, environ=told)
    for name in ("home", "threads", "parallel", "prefix_memory", "cache_type", "context"):
        assert getattr(again, name) == getattr(settings, name), name
    assert as_variables(resolve({"home": "/x"}, environ={}), ()) == {"FREEHOLD_HOME": "/x"}
