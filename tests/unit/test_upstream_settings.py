"""Upstreams as a person configures them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from freehold.cli import config
from freehold.domain.errors import InvalidSetting
from freehold.domain.setting_table import SETTINGS
from freehold.domain.settings import resolve
from freehold.domain.upstreams import Upstream, UpstreamKind

KEY = "sk-do-not-show-me"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_table_says_everything(file: Path) -> None:
    file.write_text(
        """
        [upstreams."qwen3:235b"]
        urls = ["https://GPU1.example.org:8000/v1/", "https://gpu2.example.org"]
        model = "Qwen/Qwen3-235B-A22B"
        kind = "vllm"
        key_variable = "BIG_KEY"
        context = 32768
        parallel = 64
        """
    )
    assert resolve(environ={"BIG_KEY": KEY}, file=file).upstreams == {
        "qwen3:235b": Upstream(
            name="qwen3:235b",
            urls=("https://gpu1.example.org:8000/v1", "https://gpu2.example.org/v1"),
            model="Qwen/Qwen3-235B-A22B",
            kind=UpstreamKind.VLLM,
            key_variable="BIG_KEY",
            context=32768,
            parallel=64,
            key=KEY,
        )
    }


def test_words_say_the_same(file: Path) -> None:
    file.write_text('[upstreams]\nbig = "https://a/v1,https://b/v1 model=X key_variable=K"')
    from_file = resolve(environ={}, file=file).upstreams
    words = "big=https://a/v1,https://b/v1 model=X key_variable=K"
    nothing = Path("/dev/null")
    assert resolve(environ={"FREEHOLD_UPSTREAMS": words}, file=nothing).upstreams == from_file
    assert resolve({"upstreams": (words,)}, environ={}, file=nothing).upstreams == from_file
    assert f"big={from_file['big']}" == words
    assert resolve(environ={"FREEHOLD_UPSTREAMS": "none"}, file=file).upstreams == {}
    assert resolve({"upstreams": ("none",)}, environ={}, file=file).upstreams == {}
    two = resolve(environ={"FREEHOLD_UPSTREAMS": f"{words}; b=http://localhost:1"}, file=nothing)
    assert list(two.upstreams) == ["big", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[upstreams.big]\nmodel = "x"', "upstreams.big.urls must be 1 to 64 addresses"),
        ('[upstreams.big]\nurls = "gpu1:8000"', "upstreams.big.urls must be addresses"),
        ('[upstreams.big]\nurls = "https://u:p@h/v1"', "must not carry a user or a password"),
        ('[upstreams.big]\nurls = "https://h/v1?a=b"', "without a query"),
        ('[upstreams.big]\nurls = "http://gpu1/v1"', "asks gpu1 without encryption"),
        ('[upstreams.big]\nurls = ["https://h", "https://h/v1"]', "has an address twice"),
        ('[upstreams.big]\nurls = "https://h"\nmodle = "x"', r"did you mean model\?"),
        ('[upstreams.big]\nurls = "https://h"\nkind = "ollama"', "upstreams.big.kind must be"),
        ('[upstreams.big]\nurls = "https://h"\nparallel = 0', "must be between 1 and 4096"),
        ('[upstreams.big]\nurls = "https://h"\nkey_variable = "HF_TOKEN"', "of its own"),
        ('[upstreams.big]\nurls = "https://h"\nkey_variable = "FREEHOLD_API_KEY"', "of its own"),
        ('[upstreams.Big]\nurls = "https://h"', "is no name for a model"),
        ("upstreams = 3", "upstreams must be tables"),
        ("[upstreams]\nbig = 3", "upstreams.big must be a table"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(file: Path, text: str, told: str) -> None:
    file.write_text(f"parallel = 2\n{text}\n")
    with pytest.raises(InvalidSetting, match=told) as error:
        resolve(environ={}, file=file)
    absent = told.endswith("addresses") and "urls =" not in text
    line = 2 if absent or "[upstreams.Big]" in text else len(text.splitlines()) + 1
    assert str(error.value).endswith(f"from file {file}, line {line}.")
    assert "u:p" not in str(error.value)


def test_a_key_in_the_place_of_its_variable_is_not_repeated(file: Path) -> None:
    file.write_text(f'[upstreams.big]\nurls = "https://h"\nkey_variable = "{KEY}"')
    with pytest.raises(InvalidSetting, match="the name of a variable, not the key") as error:
        resolve(environ={}, file=file)
    assert KEY not in str(error.value)


def test_plain_http_is_for_this_machine_or_for_who_says_so() -> None:
    for url in ("http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"):
        (upstream,) = resolve({"upstreams": (f"x={url}",)}, environ={}).upstreams.values()
        assert upstream.beyond == ()
        assert "on this machine" in upstream.destination
    words = "x=http://gpu1:8000 plain_http=true"
    (upstream,) = resolve({"upstreams": (words,)}, environ={}).upstreams.values()
    assert upstream.beyond == ("gpu1:8000",)
    assert "leave this machine" in upstream.destination


def test_a_name_means_one_thing() -> None:
    with pytest.raises(InvalidSetting, match=r"gpt is an upstream .* and an alias"):
        resolve({"upstreams": ("gpt=https://h",), "aliases": ("gpt=x",)}, environ={})


def test_config_tells_of_them_and_never_the_key(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("FREEHOLD_CONFIG", str(file))
    monkeypatch.setenv("BIG_KEY", KEY)
    file.write_text('[upstreams.big]\nurls = "https://gpu1/v1"\nkey_variable = "BIG_KEY"')
    plain = CliRunner().invoke(config.command, [], catch_exceptions=False)
    assert "big=https://gpu1/v1 key_variable=BIG_KEY" in plain.output
    assert "big is asked at gpu1: prompts and answers leave this machine" in plain.output
    told = CliRunner().invoke(config.command, ["--json"], catch_exceptions=False)
    value = json.loads(told.stdout)["upstreams"]["value"]
    assert value == {"big": "https://gpu1/v1 key_variable=BIG_KEY"}
    settings = resolve(environ={"BIG_KEY": KEY}, file=file)
    assert settings.upstreams["big"].key == KEY
    assert KEY not in plain.output + told.output + repr(settings)
