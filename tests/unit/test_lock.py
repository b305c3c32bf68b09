"""Locks: canonical bytes, hostile files, the store's folder, and what differs from a lock."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.errors import DigestMismatch, InvalidLock, RefusedFile
from freehold.trust import lock as locking
from freehold.trust.comparing import differences, require_locked
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.lock import (
    LOCK_FORMAT,
    MAX_LOCK_BYTES,
    KeptText,
    Lock,
    LockedFile,
    decode,
    digest,
    encode,
    lock_of,
    template_digest,
    with_decision,
)
from freehold.trust.locks import MAX_TEXT_BYTES, Locks, Texts
from freehold.trust.policy import Decision
from freehold.trust.verdict import Outcome, Use
from freehold.weights.registry import Manifest, ModelFile
from tests.support.locked import COMMIT, DECISION, LOCK, MIT, TEMPLATE, WEIGHTS, sha256, with_

Change = Callable[[dict[str, object]], None]


def builtins() -> dict[str, object]:
    """The lock as plain JSON values, to be changed."""
    read: dict[str, object] = json.loads(encode(LOCK))
    return read


def shuffled(value: object) -> object:
    """The same JSON with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


# Writing and reading

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
commits = st.none() | st.binary(min_size=20, max_size=20).map(bytes.hex)
lines = st.text(min_size=1, max_size=30)
times = st.datetimes().map(lambda time: time.isoformat(timespec="seconds") + "+00:00")
sizes = st.integers(0, 2**53 - 1)
paths = st.from_regex(r"[A-Za-z0-9_]{1,9}(/[A-Za-z0-9_]{1,9}){0,2}\.gguf", fullmatch=True)
evidence = st.builds(
    Evidence,
    st.sampled_from(Rank),
    lines,
    stated=st.none() | lines,
    name=st.none() | lines,
    link=st.none() | lines,
    text_sha256=st.none() | digests,
    normalised_sha256=st.none() | digests,
    copyright=st.none() | lines,
)
releases = st.builds(
    Release,
    lines,
    st.lists(evidence, max_size=3).map(tuple),
    commits,
    st.lists(lines, max_size=2).map(tuple),
    st.none() | st.sampled_from(Relation),
)
decisions = st.builds(
    Decision,
    use=st.sampled_from(Use),
    outcome=st.sampled_from(Outcome),
    concluded=st.none() | lines,
    who=lines,
    when=times,
    why=lines,
)
locks = st.builds(
    Lock,
    reference=lines,
    source=lines,
    commit=commits,
    files=st.lists(
        st.builds(LockedFile, paths, sizes, digests),
        min_size=1,
        max_size=3,
        unique_by=lambda file: file.path,
    ).map(tuple),
    template_sha256=st.none() | digests,
    texts=st.lists(st.builds(KeptText, lines, digests), max_size=2).map(tuple),
    releases=st.lists(releases, min_size=1, max_size=3, unique_by=lambda release: release.name).map(
        tuple
    ),
    decisions=st.lists(decisions, max_size=2).map(tuple),
    tool_version=lines,
    fetched_at=times,
)


@given(locks)
def test_what_is_written_is_read_back_whatever_the_order_of_keys(lock: Lock) -> None:
    data = encode(lock)
    assert decode(data) == lock
    again = decode(json.dumps(shuffled(json.loads(data)), indent=2).encode())
    assert again == lock
    assert encode(again) == data


def test_the_bytes_are_canonical() -> None:
    data = encode(LOCK)
    assert (
        data
        == json.dumps(
            json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
    )
    assert data.startswith(b'{"commit":"0123')
    assert digest(LOCK) == sha256(data)


def test_another_decision_is_another_digest() -> None:
    decided = with_decision(LOCK, DECISION)
    assert decided.decisions == (DECISION,)
    assert digest(decided) != digest(LOCK)
    assert decode(encode(decided)) == decided


def first_file(key: str, value: object) -> Change:
    def change(lock: dict[str, object]) -> None:
        files = lock["files"]
        assert isinstance(files, list)
        files[0][key] = value

    return change


def top(key: str, value: object) -> Change:
    def change(lock: dict[str, object]) -> None:
        lock[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first_file("path", "../../etc/passwd"), "not an acceptable file name"),
        (first_file("path", "/etc/passwd"), "not an acceptable file name"),
        (first_file("path", "a\x1b[31m.gguf"), "not an acceptable file name"),
        (first_file("sha256", "0" * 63), "not a SHA-256"),
        (first_file("sha256", "A" * 64), "not a SHA-256"),
        (first_file("sha256", "0" * 64 + "\n"), "not a SHA-256"),
        (first_file("size", -1), r"size"),
        (first_file("size", 2**53), r"size"),
        (first_file("size", 1.5), r"size"),
        (first_file("mode", 0o777), "mode"),
        (top("commit", "main"), "a branch or a tag may change"),
        (top("commit", COMMIT[:7]), "not a commit"),
        (top("template_sha256", "x"), "not a SHA-256"),
        (top("texts", [{"origin": "x", "sha256": "../x"}]), "not a SHA-256"),
        (top("fetched_at", "yesterday"), "not a time"),
        (top("fetched_at", "2026-01-02T03:04:05"), "not a time"),
        (top("fetched_at", "2026-13-02T03:04:05Z"), "not a time"),
        (top("files", []), "files"),
        (top("releases", []), "releases"),
        (top("releases", [{"name": "a/b"}, {"name": "a/b"}]), "a release twice"),
        (top("releases", [{"name": "a/b", "commit": "main"}]), "not a commit"),
        (
            top(
                "releases",
                [
                    {
                        "name": "a/b",
                        "evidence": [{"rank": "card", "origin": "x", "text_sha256": "y"}],
                    }
                ],
            ),
            "not a SHA-256",
        ),
        (top("reference", ""), "reference"),
        (top("reference", "x" * 3000), "reference"),
        (top("reference", None), "reference"),
        (top("format", 0), "no format 0"),
        (top("format", "1"), "format"),
        (top("surprise", True), "surprise"),
    ],
)
def test_a_lock_that_says_what_none_may_say_is_refused(change: Change, words: str) -> None:
    lock = builtins()
    change(lock)
    with pytest.raises(InvalidLock, match=words) as caught:
        decode(json.dumps(lock).encode(), what="theirs.json")
    assert caught.value.message.startswith("theirs.json is damaged: ")
    assert caught.value.code == "invalid_lock"
    assert "freehold lock" in str(caught.value.hint)


def test_a_file_listed_twice_is_refused() -> None:
    lock = builtins()
    files = lock["files"]
    assert isinstance(files, list)
    lock["files"] = [*files, *files]
    with pytest.raises(InvalidLock, match="a file twice"):
        decode(json.dumps(lock).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"not json",
        b'{"format": 1}',
        b'{"format":1,"x":' + b"[" * 1_000_000,
        b'{"format": 1' + b"}" * 9,
        encode(LOCK)[:-1],
        encode(LOCK) + b"{}",
        encode(LOCK).replace(b"deepseek-r1", b"\\ud800"),
        encode(LOCK).replace(b"deepseek-r1", b"\xed\xa0\x80"),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_lock_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(InvalidLock, match="damaged"):
        decode(data)


def test_a_lock_cut_anywhere_is_refused() -> None:
    data = encode(LOCK)
    for end in range(len(data)):
        with pytest.raises(InvalidLock):
            decode(data[:end])


def test_a_newer_lock_asks_for_a_newer_freehold() -> None:
    newer = {"format": LOCK_FORMAT + 1, "something": ["else"]}
    with pytest.raises(InvalidLock, match=r"newer freehold \(format 2\)") as caught:
        decode(json.dumps(newer).encode())
    assert "Upgrade freehold" in str(caught.value.hint)


def test_an_endless_lock_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidLock, match=f"larger than {MAX_LOCK_BYTES:,} bytes"):
        locking.read(path)


def test_a_lock_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefusedFile, match="No such file"):
        locking.read(tmp_path / "lock.json")


@pytest.mark.parametrize("text", ["\ud800", ""])
def test_what_could_not_be_read_back_is_not_written(text: str) -> None:
    with pytest.raises(InvalidLock):
        encode(with_(LOCK, reference=text))


# From a manifest


def manifest(name: str = "model.gguf", revision: str | None = COMMIT) -> Manifest:
    return Manifest(
        reference=LOCK.reference,
        files=(ModelFile(name, len(WEIGHTS), sha256(WEIGHTS)),),
        origin=LOCK.source,
        fetched_at=LOCK.fetched_at,
        tool_version=LOCK.tool_version,
        revision=revision,
    )


def test_a_fetched_model_is_locked() -> None:
    lock = lock_of(manifest(), template=TEMPLATE, releases=LOCK.releases, texts=LOCK.texts)
    assert lock == LOCK
    assert lock_of(manifest(), template=None, releases=LOCK.releases).template_sha256 is None


def test_a_branch_is_no_commit() -> None:
    lock = lock_of(manifest(revision="main"), template=None, releases=LOCK.releases)
    assert lock.commit is None


def test_a_name_no_path_may_have_becomes_the_digest() -> None:
    lock = lock_of(manifest("My Model.gguf"), template=None, releases=LOCK.releases)
    assert lock.files[0].path == f"{sha256(WEIGHTS)}.gguf"
    assert decode(encode(lock)) == lock


# In the store


@pytest.mark.parametrize(
    "reference",
    ["deepseek-r1:1.5b", "hf:owner/repo@abc:x/y.gguf", "https://e.org/" + "long/" * 60, ".."],
)
def test_a_lock_is_found_under_any_reference(tmp_path: Path, reference: str) -> None:
    kept = Locks(tmp_path)
    wanted = with_(LOCK, reference=reference)
    assert kept.get(reference) is None
    kept.put(wanted)
    assert kept.get(reference) == wanted
    assert kept.all() == (wanted,)
    assert {path.parent for path in tmp_path.rglob("*.json")} == {tmp_path / "locks"}
    kept.remove(reference)
    assert kept.get(reference) is None
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_damaged_lock_is_refused_and_hides_no_other(tmp_path: Path) -> None:
    kept = Locks(tmp_path)
    kept.put(LOCK)
    broken = with_(LOCK, reference="broken:1b")
    kept.put(broken)
    (tmp_path / "locks" / "broken%3A1b.lock.json").write_bytes(b"{")
    assert kept.all() == (LOCK,)
    with pytest.raises(InvalidLock, match=r"broken%3A1b\.lock\.json is damaged"):
        kept.get("broken:1b")


def test_the_lock_of_another_model_is_not_taken(tmp_path: Path) -> None:
    kept = Locks(tmp_path)
    kept.put(LOCK)
    folder = tmp_path / "locks"
    (folder / "deepseek-r1%3A1.5b.lock.json").rename(folder / "other%3A1b.lock.json")
    with pytest.raises(InvalidLock, match=r"is the lock of deepseek-r1:1\.5b, not of other:1b"):
        kept.get("other:1b")


def test_texts_are_kept_by_their_content(tmp_path: Path) -> None:
    texts = Texts(tmp_path)
    assert texts.get(sha256(MIT)) is None
    assert texts.put(MIT) == sha256(MIT)
    assert texts.put(MIT) == sha256(MIT)
    assert texts.get(sha256(MIT)) == MIT
    assert [path.name for path in (tmp_path / "texts").iterdir()] == [sha256(MIT)]


def test_a_changed_text_is_found_out(tmp_path: Path) -> None:
    texts = Texts(tmp_path)
    texts.put(MIT)
    (tmp_path / "texts" / sha256(MIT)).write_bytes(MIT.replace(b"2023", b"2024"))
    with pytest.raises(DigestMismatch, match="licence text"):
        texts.get(sha256(MIT))


@pytest.mark.parametrize("name", ["", "../x", "a" * 64 + "/", "A" * 64])
def test_only_a_digest_names_a_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        Texts(tmp_path).get(name)


def test_a_book_is_no_licence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a licence text of"):
        Texts(tmp_path).put(b"x" * (MAX_TEXT_BYTES + 1))


# Against another lock


def test_equal_models_differ_in_nothing() -> None:
    later = with_(LOCK, fetched_at="2027-01-01T00:00:00Z", tool_version="9", decisions=(DECISION,))
    assert differences(LOCK, later) == ()


OTHER = "f" * 64
(FILE,) = LOCK.files
ROOT, PARENT = LOCK.releases


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"reference": "x:1b"}, ["The model was deepseek-r1:1.5b and is x:1b."]),
        ({"commit": None}, [f"The commit was {COMMIT} and is none."]),
        (
            {"files": (with_file := msgspec.structs.replace(FILE, sha256=OTHER),)},
            [f"The SHA-256 of model.gguf was {FILE.sha256} and is {OTHER}."],
        ),
        (
            {"files": (FILE, msgspec.structs.replace(with_file, path="b.gguf"))},
            ["The file b.gguf is new."],
        ),
        (
            {"files": (msgspec.structs.replace(FILE, path="b.gguf"),)},
            ["The file model.gguf is gone.", "The file b.gguf is new."],
        ),
        (
            {"template_sha256": OTHER},
            [f"The chat template's SHA-256 was {LOCK.template_sha256} and is {OTHER}."],
        ),
        (
            {"texts": ()},
            [
                f"The licence text hf:deepseek-ai/DeepSeek-R1@{COMMIT}:LICENSE "
                f"(SHA-256 {sha256(MIT)}) is gone."
            ],
        ),
        (
            {"releases": (ROOT,)},
            ["The lineage has no Qwen/Qwen2.5-Math-1.5B any more."],
        ),
        (
            {"releases": (msgspec.structs.replace(ROOT, parents=(), evidence=()), PARENT)},
            [
                "What deepseek-ai/DeepSeek-R1 was made of is stated otherwise.",
                "What is stated about the licence of deepseek-ai/DeepSeek-R1 differs.",
            ],
        ),
    ],
)
def test_differences_are_sentences(changes: dict[str, object], sentences: list[str]) -> None:
    assert list(differences(LOCK, with_(LOCK, **changes))) == sentences


def test_parts_in_another_order_are_a_difference() -> None:
    two = (FILE, LockedFile("b.gguf", 1, OTHER))
    one = with_(LOCK, files=two)
    assert differences(one, with_(LOCK, files=two[::-1])) == ("The files are in another order.",)


# Against the files here

HERE = ModelFile("sha256-of-another-name", FILE.size, FILE.sha256)


def test_the_locked_bytes_are_accepted_under_any_name() -> None:
    require_locked(LOCK, [HERE], template_digest(TEMPLATE))


def test_another_digest_is_refused() -> None:
    with pytest.raises(DigestMismatch, match=r"model\.gguf of deepseek-r1:1\.5b") as caught:
        require_locked(LOCK, [ModelFile("x", FILE.size, OTHER)], template_digest(TEMPLATE))
    assert (caught.value.expected, caught.value.actual) == (FILE.sha256, OTHER)


def test_another_template_is_refused() -> None:
    with pytest.raises(DigestMismatch, match="chat template of"):
        require_locked(LOCK, [HERE], template_digest(TEMPLATE + " "))
    with pytest.raises(RefusedFile, match="has no chat template, but is locked with one"):
        require_locked(LOCK, [HERE], None)
    bare = with_(LOCK, template_sha256=None)
    with pytest.raises(RefusedFile, match="has a chat template, but is locked without one"):
        require_locked(bare, [HERE], template_digest(TEMPLATE))
    require_locked(bare, [HERE], None)


def test_a_file_too_many_or_too_few_is_refused() -> None:
    for files in ([], [HERE, HERE]):
        with pytest.raises(RefusedFile, match="locked to 1 file, but has"):
            require_locked(LOCK, files, template_digest(TEMPLATE))


def test_a_wrong_size_is_refused() -> None:
    with pytest.raises(RefusedFile, match="has 1 bytes, but the lock says 7,000"):
        require_locked(LOCK, [ModelFile("x", 1, FILE.sha256)], template_digest(TEMPLATE))


def test_parts_are_taken_in_the_order_of_the_lock() -> None:
    two = with_(LOCK, files=(FILE, LockedFile("b.gguf", 1, OTHER)))
    parts = [HERE, ModelFile("b", 1, OTHER)]
    require_locked(two, parts, template_digest(TEMPLATE))
    with pytest.raises(DigestMismatch):
        require_locked(two, parts[::-1], template_digest(TEMPLATE))
