"""What travels with the weights: real texts first, gaps in plain words, nothing overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from freehold.domain.errors import InvalidSetting, Unavailable
from freehold.trust.facts import Evidence, Rank
from freehold.trust.locks import Texts
from freehold.trust.notice import NoticePlan, plan, write_notice
from freehold.trust.verdict import Verdict, Weighed
from tests.support.locked import (
    CLEAN,
    COMMIT,
    CONFLICT,
    LICENCE_FILE,
    LOCK,
    MIT,
    UNKNOWN,
    ancestor,
    sha256,
    verdict,
    with_,
)
from tests.support.ordinary_user import folder_for_all, ordinary_user

PUBLISHED = {"mit": "MIT, published\n", "apache-2.0": "Apache, published\n"}


def nothing(_: str) -> None:
    """Where no text is."""


def planned(
    about: Verdict,
    stored: dict[str, bytes] | None = None,
    published: dict[str, str] | None = None,
) -> NoticePlan:
    texts = {sha256(MIT): MIT} if stored is None else stored
    canon = PUBLISHED if published is None else published
    return plan(LOCK, about, texts.get, canon.get)


def text(of: NoticePlan, path: str) -> str:
    return {file.path: file.data.decode() for file in of.files}[path]


def paths(of: NoticePlan) -> list[str]:
    return [file.path for file in of.files]


# Which files


def test_the_text_that_was_found_goes_before_the_published_one() -> None:
    notice = planned(CLEAN)
    assert paths(notice) == [
        *("LICENSES/mit.txt", "LICENSES/apache-2.0.txt"),
        *("NOTICE", "ATTRIBUTION"),
    ]
    assert text(notice, "LICENSES/mit.txt").encode() == MIT
    assert text(notice, "LICENSES/apache-2.0.txt") == PUBLISHED["apache-2.0"]
    assert "mit, of deepseek-ai/DeepSeek-R1, as at hf:" in text(notice, "NOTICE")
    assert "apache-2.0, as published" in text(notice, "NOTICE")


def test_a_text_that_is_gone_is_replaced_and_said_to_be_gone() -> None:
    notice = planned(CLEAN, stored={})
    assert text(notice, "LICENSES/mit.txt") == PUBLISHED["mit"]
    assert f"The licence text at {LICENCE_FILE.origin} is not here any more." in notice.missing


def test_a_text_nobody_has_is_said_to_be_missing() -> None:
    notice = planned(CONFLICT, published={"mit": "MIT\n"})
    assert paths(notice) == ["LICENSES/mit.txt", "NOTICE", "ATTRIBUTION"]
    (sentence,) = [one for one in notice.missing if "llama3.1 was not found" in one]
    assert sentence in text(notice, "NOTICE")


def test_copies_that_differ_by_their_copyright_all_go_in() -> None:
    other = MIT.replace(b"DeepSeek", b"Somebody")
    file = Evidence(Rank.LICENCE_FILE, "hf:b/b@x:LICENSE", text_sha256=sha256(other))
    about = verdict(
        ancestor(
            "a/a",
            "mit",
            parents=(ancestor("b/b", "mit", evidence=(Weighed(file, "mit"),)),),
            evidence=(Weighed(LICENCE_FILE, "mit"),),
        ),
        declared="mit",
        concluded="MIT",
        licences=("mit",),
    )
    notice = planned(about, stored={sha256(MIT): MIT, sha256(other): other})
    assert paths(notice)[:2] == ["LICENSES/mit.txt", f"LICENSES/mit-{sha256(other)[:12]}.txt"]


def test_a_text_nobody_recognised_comes_along() -> None:
    strange = b"Do as you like, but never on a Sunday.\n"
    file = Evidence(Rank.LICENCE_FILE, "hf:a/a@x:LICENSE", text_sha256=sha256(strange))
    about = verdict(
        ancestor("a/a", evidence=(Weighed(file, None),)),
        declared=None,
        concluded=None,
        licences=(),
    )
    notice = planned(about, stored={sha256(strange): strange})
    assert text(notice, "LICENSES/not-recognised.txt").encode() == strange


def test_terms_that_were_replaced_do_not_come_along() -> None:
    old = Evidence(Rank.LICENCE_FILE, "hf:a/base@x:LICENSE", text_sha256=sha256(b"old"))
    about = verdict(
        ancestor(
            "a/new",
            "mit",
            parents=(ancestor("a/base", "deepseek", evidence=(Weighed(old, "deepseek"),)),),
        ),
        declared="mit",
        concluded="MIT",
        licences=("mit",),
        overrides=("a published a/new under mit in place of deepseek.",),
    )
    notice = planned(about, stored={sha256(b"old"): b"old"})
    assert paths(notice) == ["LICENSES/mit.txt", "NOTICE", "ATTRIBUTION"]
    assert "in place of deepseek" in text(notice, "NOTICE")


@pytest.mark.parametrize("licence", ["../../etc/cron", "a/b", ".hidden", "odd name", "x" * 300])
def test_a_licence_is_no_path(licence: str) -> None:
    about = verdict(ancestor("a/b", licence), declared=licence, concluded=None, licences=(licence,))
    notice = planned(about, published={licence: "text"})
    assert paths(notice)[0] == "LICENSES/licence.txt"


# What they say


def test_copyright_lines_and_duties_are_in_the_notice() -> None:
    notice = text(planned(CLEAN), "NOTICE")
    assert "- Copyright (c) 2023 DeepSeek (deepseek-ai/DeepSeek-R1)" in notice
    notice = text(planned(CONFLICT), "NOTICE")
    assert "- Show “Built with Llama”. (llama3.1, meta-llama/Llama-3.1-8B)" in notice


def test_a_missing_copyright_line_is_said_to_be_missing() -> None:
    notice = planned(CONFLICT)
    sentence = (
        "No copyright line was found for deepseek-ai/DeepSeek-R1-Distill-Llama-8B, whose licence "
        "mit asks for one; its publisher can tell."
    )
    assert [one for one in notice.missing if "No copyright line" in one] == [sentence]
    assert f"- {sentence}" in text(notice, "NOTICE")
    assert not planned(CLEAN).missing


def test_the_lineage_is_attributed() -> None:
    attribution = text(planned(CLEAN), "ATTRIBUTION")
    assert (
        f"- deepseek-ai/DeepSeek-R1 at commit {COMMIT} (mit), finetune of:\n"
        f"-   Qwen/Qwen2.5-Math-1.5B at commit {COMMIT} (apache-2.0)\n"
    ) in attribution
    assert LOCK.files[0].sha256 in attribution


def test_what_is_unknown_is_said_to_be() -> None:
    notice = planned(UNKNOWN)
    assert paths(notice) == ["NOTICE", "ATTRIBUTION"]
    assert notice.missing == ("Nothing was read about somebody/lost.",)
    assert "somebody/lost (not read)" in text(notice, "ATTRIBUTION")


def test_strangers_words_cannot_look_like_ours() -> None:
    line = "Copyright me\n\nNot found\n---------\n- nothing\x1b[2J"
    file = Evidence(Rank.CARD, "x", copyright=line)
    about = verdict(
        ancestor("a/b", "mit", evidence=(Weighed(file, "mit"),)),
        declared="mit",
        concluded="MIT",
        licences=("mit",),
    )
    notice = text(planned(about), "NOTICE")
    assert "- Copyright me Not found --------- - nothing [2J (a/b)" in notice
    assert "\x1b" not in notice
    renamed = with_(LOCK, reference="x\ny")
    opening = plan(renamed, about, nothing, nothing).files[-2].data.decode()
    assert opening.startswith("Notices for x y\n===============\n")


# Writing


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Path], NoticePlan]:
    texts = Texts(tmp_path / "home")
    texts.put(MIT)
    return lambda folder: write_notice(folder, LOCK, CLEAN, texts.get, canonical=PUBLISHED.get)


def test_the_plan_is_written(tmp_path: Path, write: Callable[[Path], NoticePlan]) -> None:
    folder = tmp_path / "deep" / "notices"
    notice = write(folder)
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == {file.path: file.data for file in notice.files}
    assert notice == planned(CLEAN)


def test_writing_the_same_again_is_no_harm(
    tmp_path: Path, write: Callable[[Path], NoticePlan]
) -> None:
    (tmp_path / "weights.gguf").write_bytes(b"weights")
    assert write(tmp_path) == write(tmp_path)
    assert (tmp_path / "weights.gguf").read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["NOTICE", "ATTRIBUTION", "LICENSES/mit.txt"])
def test_a_strangers_file_is_not_overwritten(
    tmp_path: Path, write: Callable[[Path], NoticePlan], name: str
) -> None:
    folder = tmp_path / "notices"
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InvalidSetting, match=f"{name} is in the way") as caught:
        write(folder)
    assert "empty folder" in str(caught.value.hint)
    assert [one.read_text() for one in folder.rglob("*") if one.is_file()] == ["mine"]


def test_links_are_not_followed(tmp_path: Path, write: Callable[[Path], NoticePlan]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("NOTICE", "LICENSES"):
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        (folder / name).symlink_to(outside / "NOTICE" if name == "NOTICE" else outside)
        with pytest.raises(InvalidSetting, match="in the way"):
            write(folder)
    assert list(outside.iterdir()) == []


def test_a_folder_that_is_a_file_is_in_the_way(
    tmp_path: Path, write: Callable[[Path], NoticePlan]
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidSetting, match="in the way"):
        write(tmp_path / "file")
    (tmp_path / "NOTICE").mkdir()
    with pytest.raises(InvalidSetting, match="in the way"):
        write(tmp_path)


def test_a_folder_of_somebody_else_is_refused() -> None:
    with folder_for_all() as folder:
        folder.chmod(0o555)
        with ordinary_user(), pytest.raises(Unavailable, match="cannot be written"):
            write_notice(folder / "new", LOCK, UNKNOWN, nothing, canonical=nothing)
        folder.chmod(0o777)
