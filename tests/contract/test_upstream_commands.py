"""Upstreams as the command line shows and asks them; the server elsewhere is one of ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from freehold.domain.settings import resolve
from freehold.engines.scripted import Script
from freehold.weights.library import Library
from freehold.weights.registry import Manifest, ModelFile
from tests.support.command import FREEHOLD, Result, environment, freehold, serving
from tests.support.gateway import Gateway, gateway

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

KEY = "sk-of-the-upstream"
REMOTE = (
    "big=https://gpu1.invalid:8000/v1,https://gpu2.invalid/v1 model=org/Big key_variable=BIG_KEY"
)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("elsewhere")
    with gateway(home, (tiny,), script=lambda _: Script(), api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def extra(elsewhere: Gateway) -> Mapping[str, str]:
    words = f"near={elsewhere.url}/v1 model=tiny kind=freehold key_variable=NEAR_KEY"
    return {"FREEHOLD_UPSTREAMS": words, "NEAR_KEY": KEY}


@pytest.fixture(scope="module")
def remote() -> Mapping[str, str]:
    return {"FREEHOLD_UPSTREAMS": REMOTE, "BIG_KEY": KEY}


def said(result: Result) -> str:
    assert result.status == 0, result.err
    assert KEY not in result.out + result.err
    return result.out + result.err


def refused(result: Result) -> str:
    assert result.status != 0
    assert "Traceback" not in result.err
    assert KEY not in result.out + result.err
    return result.err


def test_run_asks_it_and_says_where(tmp_path: Path, extra: Mapping[str, str]) -> None:
    result = freehold(tmp_path, "run", "near", "Hello", extra=extra)
    assert result.out == "All is well.\n"
    assert "The upstream near is asked at 127.0.0.1:" in said(result)
    assert "on this machine" in result.err
    aliased = {**extra, "FREEHOLD_ALIASES": "gpt-4o=near"}
    assert freehold(tmp_path, "run", "gpt-4o", "Hello", extra=aliased).out == "All is well.\n"
    answer = freehold(tmp_path, "run", "near", "Hello", "--json", extra=extra).json
    assert answer["usage"]["completion_tokens"] == 3
    context = freehold(tmp_path, "run", "near", "Hello", "--context", "64", extra=extra)
    assert "--context is not ours to set" in refused(context)


def test_run_offline_asks_what_is_on_this_machine_and_nothing_else(
    tmp_path: Path, extra: Mapping[str, str], remote: Mapping[str, str]
) -> None:
    assert freehold(tmp_path, "run", "--offline", "near", "Hello", extra=extra).status == 0
    away = freehold(tmp_path, "run", "--offline", "big", "Hello", extra=remote)
    assert "offline" in refused(away)
    assert "the upstream big cannot be used" in away.err


def test_run_without_its_key(tmp_path: Path, extra: Mapping[str, str]) -> None:
    without = {name: value for name, value in extra.items() if name != "NEAR_KEY"}
    told = refused(freehold(tmp_path, "run", "near", "Hello", extra=without))
    assert "the variable NEAR_KEY, which is not set" in told
    assert "NEAR_KEY, which is not set" in refused(freehold(tmp_path, "serve", extra=without))


def test_show_says_that_it_keeps_its_own_template(
    tmp_path: Path, remote: Mapping[str, str]
) -> None:
    told = said(freehold(tmp_path, "show", "big", extra=remote))
    assert "Template" in told
    assert "its own" in told
    assert "prompts and answers leave this machine" in told
    facts = freehold(tmp_path, "show", "big", "--json", extra=remote).json
    assert facts["keeps_its_own_template"] is True
    assert facts["leaves_machine"] is True
    assert facts["key_set"] is True
    for flags in (("--prompt", "Hello"), ("--template",), ("--template-diff", "x")):
        result = freehold(tmp_path, "show", "big", *flags, extra=remote)
        assert "keeps its own template" in refused(result)


def test_list_and_config_and_doctor_tell_of_it(tmp_path: Path, remote: Mapping[str, str]) -> None:
    assert "upstream: https://gpu1.invalid:8000/v1" in said(
        freehold(tmp_path, "list", extra=remote)
    )
    (listed,) = freehold(tmp_path, "list", "--json", extra=remote).json
    assert listed["upstream"]["urls"][1] == "https://gpu2.invalid/v1"
    config = said(freehold(tmp_path, "config", extra=remote))
    assert "gpu1.invalid:8000 and gpu2.invalid: prompts and answers leave this machine" in config
    doctor = freehold(tmp_path, "doctor", extra=remote)
    assert "leave this machine; key: from the variable BIG_KEY, which is set" in doctor.out
    assert "Replica" not in doctor.out  # it asks nobody by itself


def test_doctor_asks_them_when_told_to(
    tmp_path: Path, extra: Mapping[str, str], elsewhere: Gateway
) -> None:
    host = elsewhere.url.removeprefix("http://")
    doctor = freehold(tmp_path, "doctor", "--upstreams", extra=extra)
    assert f"Replica {host}" in doctor.out
    wrong = {**extra, "FREEHOLD_UPSTREAMS": extra["FREEHOLD_UPSTREAMS"].replace("tiny", "other")}
    doctor = freehold(tmp_path, "doctor", "--upstreams", extra=wrong)
    assert "well, and does not list other" in doctor.out
    assert doctor.status == 1
    wrong = {**extra, "NEAR_KEY": "wrong"}
    assert "HTTP 401" in freehold(tmp_path, "doctor", "--upstreams", extra=wrong).out


def test_serve_says_where_and_ps_shows_how_they_are(
    tmp_path: Path, extra: Mapping[str, str]
) -> None:
    with serving(tmp_path, "near", extra=extra) as server:
        body = {"model": "near", "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{server.url}/v1/chat/completions"
        response = httpx2.post(url, json=body, trust_env=False)
        assert response.json()["choices"][0]["message"]["content"] == "All is well."
        ps = freehold(tmp_path, "ps", extra=extra)
        assert "healthy" in said(ps)
        assert ps.out.startswith("UPSTREAM")


def test_serve_offline_says_that_it_can_use_none(tmp_path: Path, extra: Mapping[str, str]) -> None:
    process = subprocess.Popen(
        [FREEHOLD, "serve", "--offline", "--port", "0"],
        env=environment(tmp_path, extra),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == b"offline: the upstream near cannot be used.\n"
        url = process.stderr.readline().decode().split()[2]
        body = {"model": "near", "messages": [{"role": "user", "content": "Hello"}]}
        response = httpx2.post(f"{url}/v1/chat/completions", json=body, trust_env=False)
        assert response.status_code == 503
        assert "the upstream near cannot be used" in response.json()["error"]["message"]
        listed = httpx2.get(f"{url}/freehold/v1/upstreams", trust_env=False).json()
        assert listed["upstreams"][0]["usable"] is False
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stderr.close()


@pytest.mark.parametrize("name", ["qwen2.5-coder:0.5b", "ours:7b", "tiny"])
def test_a_name_of_a_model_here_is_refused(tmp_path: Path, tiny: Path, name: str) -> None:
    library = Library.open(resolve({"home": str(tmp_path)}, environ={}))
    file = ModelFile("ours.gguf", 1, "0" * 64)
    library.registry.put(Manifest("ours:7b", (file,), "here", "2026-11-24T00:00:00+00:00", "0"))
    extra = {"FREEHOLD_UPSTREAMS": f"{name}=http://localhost:9/v1"}
    result = freehold(tmp_path, "serve", "--port", "0", str(tiny), extra=extra)
    assert f"The upstream {name} has the name of a model" in refused(result)


def test_with_a_lock_nothing_is_served_that_is_in_none(
    tmp_path: Path, extra: Mapping[str, str]
) -> None:
    lock = tmp_path / "any.lock"
    lock.write_text("{}")
    result = freehold(tmp_path, "serve", "--locked", str(lock), extra=extra)
    assert "is in no lock" in refused(result)


def test_an_upstream_cannot_be_pinned(tmp_path: Path, extra: Mapping[str, str]) -> None:
    result = freehold(tmp_path, "serve", "--pin", "near", extra=extra)
    assert "nothing of it is loaded here" in refused(result)
