"""The hub source against a hub on loopback: what it picks, whom it asks, what it says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from freehold.domain.errors import (
    FreeholdError,
    GatedModel,
    InvalidReference,
    InvalidSetting,
    SourceUnavailable,
    UnknownModel,
    UnsupportedFile,
)
from freehold.weights.sources import hub_library
from freehold.weights.sources.base import RemoteFile, Source
from freehold.weights.sources.hub import HubSource
from freehold.weights.sources.quiet import quiet_environment
from tests.support.fake_hub import (
    FakeFile,
    FakeHub,
    FakeRepository,
    deepseek_repositories,
    gguf,
    split_gguf,
)

R1 = "unsloth/DeepSeek-R1-GGUF"
DISTILL = "bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF"
SPLIT = "DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M"
TOKEN = "hf_secretsecretsecret"
STRANGER = "hf_strangerstranger"
GATED = FakeRepository(
    "meta-llama/gated-GGUF",
    {"model-Q4_K_M.gguf": gguf("gated")},
    gated="manual",
    readers=frozenset({TOKEN}),
)
SECRET = FakeRepository(
    "someone/private-GGUF", {"m.gguf": gguf("p")}, private=True, readers=frozenset({TOKEN})
)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    repositories = [*deepseek_repositories(), GATED, SECRET]
    with FakeHub(repositories, tokens=[TOKEN, STRANGER]) as hub:
        yield hub


def source(
    hub: FakeHub,
    repository: str,
    *paths: str,
    revision: str | None = None,
    token: str | None = None,
) -> HubSource:
    return HubSource(
        repository, revision=revision, paths=paths or None, endpoint=hub.endpoint, token=token
    )


def only(*names: str, card: dict[str, object] | None = None) -> FakeRepository:
    return FakeRepository("someone/model", {name: gguf(name) for name in names}, card=card)


def names(one: HubSource) -> list[str]:
    return [file.name for file in one.resolve().files]


def read(one: Source, file: RemoteFile, offset: int = 0) -> bytes:
    with one.stream(file, offset) as chunks:
        return b"".join(chunks)


# Resolving


def test_an_offer_pins_the_commit_and_says_what_the_hub_knows(hub: FakeHub) -> None:
    repository = deepseek_repositories()[1]
    offer = source(hub, R1, "Q4_K_M").resolve()
    assert offer.revision == repository.commit
    assert offer.origin == f"{hub.endpoint}/{R1}"
    assert (offer.licence, offer.base_models) == ("mit", ("deepseek-ai/DeepSeek-R1",))
    for file in offer.files:
        real = repository.files[file.name]
        assert (file.size, file.sha256) == (len(real.content), real.sha256)


def test_a_card_that_declares_no_licence_gives_none(hub: FakeHub) -> None:
    assert source(hub, DISTILL, "Q4_K_M").resolve().licence is None


@pytest.mark.parametrize(
    ("card", "licence", "base_models"),
    [
        (None, None, ()),
        ({"license": "other", "license_name": "deepseek"}, "deepseek", ()),
        ({"license": "other"}, "other", ()),
        ({"license": ["mit", "apache-2.0"]}, "mit, apache-2.0", ()),
        ({"base_model": ["a/b", "c/d"]}, None, ("a/b", "c/d")),
        ({"license": 7, "base_model": {"x": 1}}, None, ()),
        ({"license": "mit\x1b[31m", "base_model": ["a/b\n"]}, None, ()),
    ],
)
def test_licence_and_base_models_are_as_declared(
    hub: FakeHub,
    card: dict[str, object] | None,
    licence: str | None,
    base_models: tuple[str, ...],
) -> None:
    hub.add(only("m.gguf", card=card))
    offer = source(hub, "someone/model").resolve()
    assert (offer.licence, offer.base_models) == (licence, base_models)


def test_a_commit_may_be_named_and_is_held_to(hub: FakeHub) -> None:
    commit = deepseek_repositories()[2].commit
    assert source(hub, DISTILL, "Q6_K", revision=commit).resolve().revision == commit
    hub.faults.info = {"id": DISTILL, "sha": "0" * 40, "siblings": []}
    with pytest.raises(SourceUnavailable, match="another commit"):
        source(hub, DISTILL, "Q6_K", revision=commit).resolve()


def test_the_hub_is_asked_once(hub: FakeHub) -> None:
    one = source(hub, DISTILL, "Q4_K_M")
    offer = one.resolve()
    assert one.resolve() == offer
    read(one, offer.files[0])
    api = [path for path in hub.paths("hub") if path.startswith("/api/")]
    assert api == [f"/api/models/{DISTILL}"]


def test_a_renamed_repository_is_followed(hub: FakeHub) -> None:
    hub.rename("old/name", DISTILL)
    assert source(hub, "old/name", "Q8_0").resolve().revision == deepseek_repositories()[2].commit


# Choosing


def test_the_only_gguf_is_taken(hub: FakeHub) -> None:
    hub.add(only("model-Q5_K_M.gguf", "README.md", "mmproj-model-f16.gguf", "imatrix_x.gguf"))
    assert names(source(hub, "someone/model")) == ["model-Q5_K_M.gguf"]


def test_several_models_without_a_choice_are_listed_with_sizes(hub: FakeHub) -> None:
    with pytest.raises(InvalidReference) as caught:
        source(hub, DISTILL).resolve()
    for kind in ("IQ4_XS", "Q4_K_M", "Q4_K_S", "Q6_K", "Q8_0"):
        assert f"DeepSeek-R1-Distill-Qwen-1.5B-{kind}.gguf (4.1 kB)" in str(caught.value)
    assert caught.value.hint is not None
    assert f"hf:{DISTILL}:Q4_K_M" in caught.value.hint


def test_a_listing_counts_a_split_file_once(hub: FakeHub) -> None:
    with pytest.raises(InvalidReference, match="3 GGUF models") as caught:
        source(hub, R1).resolve()
    assert f"{SPLIT}-00001-of-00009.gguf (13.8 kB, 9 parts)" in str(caught.value)
    assert "00002" not in str(caught.value)


@pytest.mark.parametrize("choice", ["Q4_K_M", "q4_k_m", "1.5B-q4_K_m"])
def test_a_quantisation_is_chosen_in_any_case(hub: FakeHub, choice: str) -> None:
    assert names(source(hub, DISTILL, choice)) == ["DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf"]


@pytest.mark.parametrize("choice", ["Q4_K", "Q4", "K_M_", "Q5_K_M"])
def test_a_quantisation_is_a_whole_word(hub: FakeHub, choice: str) -> None:
    with pytest.raises(InvalidReference, match=f"no {choice}; it has .*Q4_K_M"):
        source(hub, DISTILL, choice).resolve()


def test_a_choice_that_fits_several_lists_those(hub: FakeHub) -> None:
    hub.add(only("a-Q4_0.gguf", "b-Q4_0.gguf", "c-Q8_0.gguf"))
    with pytest.raises(InvalidReference, match=r"a-Q4_0.*b-Q4_0") as caught:
        source(hub, "someone/model", "q4_0").resolve()
    assert "c-Q8_0" not in str(caught.value)


def test_files_are_chosen_by_path_in_the_order_given(hub: FakeHub) -> None:
    hub.add(only("a.gguf", "sub/b.gguf", "mmproj-f16.gguf"))
    paths = ("sub/b.gguf", "mmproj-f16.gguf", "sub/b.gguf")
    assert names(source(hub, "someone/model", *paths)) == ["sub/b.gguf", "mmproj-f16.gguf"]


def test_a_path_that_is_not_there_is_told_with_what_is(hub: FakeHub) -> None:
    with pytest.raises(InvalidReference, match=r"no absent\.gguf; it has .*Q6_K"):
        source(hub, DISTILL, "absent.gguf").resolve()


@pytest.mark.parametrize(
    "choice", ["Q4_K_M", f"{SPLIT}-00001-of-00009.gguf", f"{SPLIT}-00007-of-00009.gguf"]
)
def test_a_split_file_comes_with_all_its_parts_in_order(hub: FakeHub, choice: str) -> None:
    parts = [f"{SPLIT}-{part:05}-of-00009.gguf" for part in range(1, 10)]
    assert names(source(hub, R1, choice)) == parts


@pytest.mark.parametrize("part", [1, 5, 9])
def test_a_missing_part_is_named(hub: FakeHub, part: int) -> None:
    missing = f"x-{part:05}-of-00009.gguf"
    files = {name: file for name, file in split_gguf("x", 9).items() if name != missing}
    hub.add(FakeRepository("someone/model", files))
    with pytest.raises(SourceUnavailable, match=f"lacks {missing}\\."):
        source(hub, "someone/model").resolve()


def test_a_repository_without_gguf_is_unsupported(hub: FakeHub) -> None:
    with pytest.raises(UnsupportedFile, match="no GGUF file"):
        source(hub, "deepseek-ai/DeepSeek-R1").resolve()


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.PT", "x.pkl", "a/b.ckpt", "model.safetensors", "modeling_x.py"],
)
def test_other_formats_are_refused_without_a_request(hub: FakeHub, name: str) -> None:
    with pytest.raises(UnsupportedFile, match="not a GGUF file"):
        source(hub, R1, name)
    assert not hub.requests


def test_what_is_known_beforehand_selects_the_file_and_must_agree(hub: FakeHub) -> None:
    name = "DeepSeek-R1-Distill-Qwen-1.5B-Q8_0.gguf"
    real = deepseek_repositories()[2].files[name]
    good = RemoteFile(name, size=4096, sha256=real.sha256)

    def resolve(expected: RemoteFile) -> tuple[RemoteFile, ...]:
        return HubSource(DISTILL, expected=(expected,), endpoint=hub.endpoint).resolve().files

    assert resolve(good) == resolve(RemoteFile(name)) == (good,)
    with pytest.raises(SourceUnavailable, match=r"another .*SHA-256"):
        resolve(replace(good, sha256="0" * 64))
    with pytest.raises(SourceUnavailable, match="4096 bytes, not 5"):
        resolve(replace(good, size=5))


def test_a_digest_the_hub_lacks_is_taken_from_what_is_known(hub: FakeHub) -> None:
    small = FakeFile(b"GGUF", lfs=False)
    hub.add(FakeRepository("someone/model", {"m.gguf": small}))
    assert source(hub, "someone/model").resolve().files == (RemoteFile("m.gguf", size=4),)
    known = RemoteFile("m.gguf", sha256=small.sha256)
    offer = HubSource("someone/model", expected=(known,), endpoint=hub.endpoint).resolve()
    assert offer.files == (RemoteFile("m.gguf", size=4, sha256=small.sha256),)


# Streaming


def test_bytes_come_from_the_pinned_commit_and_resume(hub: FakeHub) -> None:
    one = source(hub, R1, "Q4_K_M")
    offer = one.resolve()
    content = deepseek_repositories()[1].files[offer.files[3].name].content
    assert read(one, offer.files[3]) == content
    assert read(one, offer.files[3], 1000) == content[1000:]
    resolved = [path for path in hub.paths("hub") if "/resolve/" in path]
    assert resolved == [f"/{R1}/resolve/{offer.revision}/{offer.files[3].name}"] * 2


def test_bytes_another_source_named_otherwise_are_found_by_digest(hub: FakeHub) -> None:
    one = source(hub, DISTILL, "Q8_0")
    file = one.resolve().files[0]
    elsewhere = RemoteFile("other-name.gguf", sha256=file.sha256)
    assert read(one, elsewhere, 4000) == read(one, file)[4000:]
    with pytest.raises(SourceUnavailable, match="does not offer"):
        read(one, RemoteFile("other-name.gguf"))


def test_the_token_never_reaches_the_cdn(hub: FakeHub) -> None:
    one = source(hub, GATED.name, token=TOKEN)
    read(one, one.resolve().files[0], 5)
    shown = {seen.port: seen.headers.get("authorization") for seen in hub.requests}
    assert shown == {"hub": f"Bearer {TOKEN}", "cdn": None}
    assert not any(TOKEN in str(seen) for seen in hub.requests if seen.port == "cdn")


def test_the_token_is_not_in_what_people_see() -> None:
    one = HubSource(R1, token=TOKEN)
    assert TOKEN not in repr(one) + str(one) + one.description
    assert one.description == f"Hugging Face hub, {R1}"


def test_the_api_cannot_lead_the_token_elsewhere(hub: FakeHub) -> None:
    with FakeHub(deepseek_repositories(), tokens=[TOKEN]) as other:
        hub.rename("a/b", DISTILL, host=other.endpoint)
        source(hub, "a/b", "Q8_0", token=TOKEN).resolve()
        assert [seen.headers.get("authorization") for seen in other.requests] == [None]


def test_the_api_cannot_lead_away_from_https(hub: FakeHub) -> None:
    hub.rename("a/b", DISTILL, host="http://hub.invalid")
    with pytest.raises(SourceUnavailable, match=r"redirects to http://hub\.invalid, which is"):
        source(hub, "a/b", "Q8_0").resolve()


def test_a_broken_connection_is_a_source_that_is_unavailable(hub: FakeHub) -> None:
    one = source(hub, DISTILL, "Q4_K_M")
    file = one.resolve().files[0]
    hub.faults.drop_after = 1234
    with pytest.raises(SourceUnavailable, match="broke"):
        read(one, file)
    hub.faults.drop_after, hub.faults.ignore_range = None, True
    with pytest.raises(SourceUnavailable, match="cannot resume"):
        read(one, file, 1234)


def test_a_refusal_by_the_cdn_is_no_judgement_on_the_model(hub: FakeHub) -> None:
    one = source(hub, DISTILL, "Q4_K_M")
    file = one.resolve().files[0]
    hub.faults.cdn_status = 403
    with pytest.raises(SourceUnavailable, match="refuses access"):
        read(one, file)


# Refusals


def test_a_gated_model_says_where_to_accept_and_what_to_set(hub: FakeHub) -> None:
    with pytest.raises(GatedModel) as caught:
        source(hub, GATED.name).resolve()
    assert caught.value.hint is not None
    assert f"{hub.endpoint}/{GATED.name}" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint


def test_a_token_without_access_is_told_apart(hub: FakeHub) -> None:
    one = source(hub, GATED.name, token=STRANGER)
    file = one.resolve().files[0]
    with pytest.raises(GatedModel, match="token in use has no access"):
        read(one, file)


def test_a_token_with_access_reads(hub: FakeHub) -> None:
    one = source(hub, GATED.name, "Q4_K_M", token=TOKEN)
    assert read(one, one.resolve().files[0]) == gguf("gated").content


def test_an_invalid_token_is_named_as_the_cause(hub: FakeHub) -> None:
    with pytest.raises(GatedModel, match="does not accept the token") as caught:
        source(hub, R1, "Q4_K_M", token="hf_invalid").resolve()
    assert "hf_invalid" not in str(caught.value)


@pytest.mark.parametrize("repository", ["no-such/model", SECRET.name])
@pytest.mark.parametrize("token", [None, STRANGER])
def test_missing_and_private_are_both_named(
    hub: FakeHub, repository: str, token: str | None
) -> None:
    with pytest.raises(UnknownModel) as caught:
        source(hub, repository, token=token).resolve()
    assert caught.value.name == f"hf:{repository}"
    assert caught.value.hint is not None
    assert "does not exist" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint


def test_a_missing_revision_is_told_apart(hub: FakeHub) -> None:
    with pytest.raises(UnknownModel, match="@v9") as caught:
        source(hub, R1, revision="v9").resolve()
    assert caught.value.hint is not None
    assert "no such branch" in caught.value.hint


def test_a_rate_limit_is_told_at_once(hub: FakeHub) -> None:
    hub.faults.rate_limited = True
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="limiting requests and asks us to wait 55"):
        source(hub, R1, "Q4_K_M").resolve()
    assert time.monotonic() - began < 3
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [400, 418, 500, 502, 503])
def test_other_statuses_are_not_retried_and_not_quoted(hub: FakeHub, status: int) -> None:
    hub.faults.hub_status = status
    with pytest.raises(SourceUnavailable) as caught:
        source(hub, R1, "Q4_K_M").resolve()
    assert "nobody should quote" not in str(caught.value)
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        [],
        "text",
        {},
        {"id": 5},
        {"id": R1, "siblings": [{}]},
        {"id": R1, "sha": "main", "siblings": []},
        {"id": R1, "sha": None},
        {"id": R1, "sha": "0" * 40, "siblings": [{"rfilename": "m.gguf", "lfs": {"size": 1}}]},
        {"id": R1, "cardData": {"ignore_metadata_errors": True}, "siblings": []},
        {"id": R1, "lastModified": "yesterday"},
    ],
)
def test_an_answer_of_another_shape_is_a_source_that_is_unavailable(
    hub: FakeHub, answer: object
) -> None:
    hub.faults.info = answer
    with pytest.raises(SourceUnavailable):
        source(hub, R1, "Q4_K_M").resolve()


def test_sizes_and_digests_of_another_shape_are_unknown(hub: FakeHub) -> None:
    lfs = {"sha256": "../../etc/passwd", "size": -1, "pointerSize": 0}
    sibling = {"rfilename": "m.gguf", "size": -1, "lfs": lfs}
    hub.faults.info = {"id": R1, "sha": "0" * 40, "siblings": [sibling], "cardData": "card"}
    offer = source(hub, R1).resolve()
    assert (offer.files, offer.licence) == ((RemoteFile("m.gguf"),), None)


def test_an_answer_without_end_is_cut(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_library, "MAX_ANSWER_BYTES", 1 << 20)
    hub.faults.info = {"id": R1, "padding": "x" * (2 << 20)}
    with pytest.raises(SourceUnavailable, match="more than 1 MiB"):
        source(hub, R1).resolve()


def test_an_unreachable_hub_fails_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        HubSource(R1, endpoint=endpoint).resolve()
    assert time.monotonic() - began < 3


def test_a_silent_hub_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_library, "TIMEOUT", httpx2.Timeout(0.2))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SourceUnavailable, match="did not answer in time"):
            HubSource(R1, endpoint=endpoint).resolve()


# Hostile names

BAD_PATHS = [
    *("../x.gguf", "a/../../x.gguf", "/etc/x.gguf", "a\\x.gguf", "C:\\x.gguf", "x\0.gguf"),
    *("a//x.gguf", "./x.gguf", ".gguf", "\u202ex.gguf", "x" * 300 + ".gguf", "x\x1b[2J.gguf"),
]


@pytest.mark.parametrize("path", [*BAD_PATHS, "", "Q4 K M", "a/b", "*", "x\n"])
def test_a_hostile_path_is_refused_without_a_request(hub: FakeHub, path: str) -> None:
    with pytest.raises(InvalidReference):
        source(hub, R1, path)
    assert not hub.requests


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_hostile_name_at_the_hub_is_not_offered(hub: FakeHub, path: str) -> None:
    hub.add(only("good.gguf", path))
    assert names(source(hub, "someone/model")) == ["good.gguf"]
    hub.add(only(path))
    with pytest.raises(UnsupportedFile) as caught:
        source(hub, "someone/model").resolve()
    assert path not in str(caught.value)


@pytest.mark.parametrize(
    "repository",
    [
        *("", "name", "a/b/c", "../b", "a/..", "/a/b", "a/b/", "a\\b", "a/b\0", "a/b\n", "a b/c"),
        *(
            "a--b/c",
            "a/b..c",
            "a/b.git",
            "-a/b",
            "a/b-",
            "a/b?x=1",
            "a/b#c",
            "a/%2e%2e",
            "\u00e9/b",
        ),
        "a/" + "b" * 200,
    ],
)
def test_a_hostile_repository_is_refused_without_a_request(hub: FakeHub, repository: str) -> None:
    with pytest.raises(InvalidReference):
        source(hub, repository)
    assert not hub.requests


@pytest.mark.parametrize(
    "revision", ["", "../x", "a/../b", "/x", "a b", "x\0", "-x", "a?b", "v" * 300]
)
def test_a_hostile_revision_is_refused_without_a_request(hub: FakeHub, revision: str) -> None:
    with pytest.raises(InvalidReference):
        source(hub, R1, revision=revision)
    assert not hub.requests


@pytest.mark.parametrize(
    "endpoint",
    ["http://hub.example", "ftp://hub.example", "https://a:b@hub.example", "hub", "https://h/?q"],
)
def test_the_endpoint_is_https_or_this_machine(endpoint: str) -> None:
    with pytest.raises(InvalidSetting):
        HubSource(R1, endpoint=endpoint)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "t\u00f6ken"])
def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        HubSource(R1, token=token)
    assert not token or token not in str(caught.value)


# Silence


def run_alone(hub: FakeHub, home: Path, code: str, **environment: str) -> None:
    """Run ``code`` in a fresh interpreter whose environment asks for no silence."""
    muting = ("HF_", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "HUGGING")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(muting)}
    loud = {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.endpoint,
        "AI_AGENT": "x",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**kept, **loud, **environment},
        check=True,
        timeout=60,
    )


PULL = f"""
from freehold.weights.sources.hub import HubSource
one = HubSource({DISTILL!r}, paths=("Q4_K_M",), endpoint="%s")
with one.stream(one.resolve().files[0], 0) as chunks:
    assert b"".join(chunks).startswith(b"GGUF")
"""


def test_only_what_a_pull_needs_is_asked(hub: FakeHub, tmp_path: Path) -> None:
    run_alone(
        hub,
        tmp_path,
        PULL % hub.endpoint,
        HF_TOKEN=TOKEN,
        HF_HUB_ENABLE_HF_TRANSFER="1",
        HTTP_PROXY="http://proxy.invalid:1",
    )
    commit = deepseek_repositories()[2].commit
    file = "DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf"
    assert hub.paths("hub") == [f"/api/models/{DISTILL}", f"/{DISTILL}/resolve/{commit}/{file}"]
    assert len(hub.paths("cdn")) == 1
    assert {seen.headers["user-agent"] for seen in hub.requests} == {"freehold"}
    assert not any("authorization" in seen.headers for seen in hub.requests)
    assert not list(tmp_path.iterdir())


def test_silence_holds_when_the_library_was_imported_before(hub: FakeHub, tmp_path: Path) -> None:
    run_alone(hub, tmp_path, "import huggingface_hub.constants\n" + PULL % hub.endpoint)
    assert len(hub.paths("hub")) == 2
    assert not list(tmp_path.iterdir())


def test_without_our_care_the_library_would_have_called_home(hub: FakeHub, tmp_path: Path) -> None:
    # What the tests above forbid really happens: they cannot pass for want of a caller.
    run_alone(hub, tmp_path, f"from huggingface_hub import HfApi\nHfApi().model_info({R1!r})")
    assert "/api/agent-harnesses" in hub.paths("hub")


def test_an_offline_switch_of_the_library_is_honoured(hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "from freehold.domain.errors import OfflineRefused\n"
        f"try:\n    exec({PULL % hub.endpoint!r})\nexcept OfflineRefused:\n    pass\n"
        "else:\n    raise SystemExit(1)"
    )
    run_alone(hub, tmp_path, code, HF_HUB_OFFLINE="1")
    assert not hub.requests


def test_the_library_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom freehold.weights.sources.hub import HubSource\n"
        "HubSource('a/b')\nassert 'huggingface_hub' not in sys.modules"
    )
    with FakeHub() as hub:
        run_alone(hub, tmp_path, code)


def test_a_quiet_environment_is_written_over_a_loud_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in quiet_environment():
        monkeypatch.setenv(name, "no")
    settings = quiet_environment()
    assert {name: os.environ[name] for name in settings} == dict(settings)
    assert settings["HF_HUB_DISABLE_TELEMETRY"] == settings["DO_NOT_TRACK"] == "1"


def test_every_error_is_ours(hub: FakeHub) -> None:
    hub.faults.hub_status = 500
    with pytest.raises(FreeholdError) as caught:
        source(hub, R1).resolve()
    assert type(caught.value).__module__.startswith("freehold.")
