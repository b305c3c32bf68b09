"""What a person types, read as one of four kinds, and what is none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freehold.domain.errors import InvalidReference, UnsupportedFile
from freehold.weights.reference import (
    MAX_REFERENCE,
    HubReference,
    NameReference,
    PathReference,
    Reference,
    UrlReference,
    parse,
)
from freehold.weights.sources.hub import HubSource
from freehold.weights.sources.url import UrlSource

DIGEST = "0123456789abcdef" * 4
FRAGMENT = f"#sha256={DIGEST}"
COMMIT = "0" * 40


# Names


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("deepseek-r1", NameReference("deepseek-r1", None)),
        ("deepseek-r1:1.5b", NameReference("deepseek-r1", "1.5b")),
        ("DeepSeek-R1:1.5B", NameReference("deepseek-r1", "1.5b")),
        ("a" * 96 + ":" + "b" * 96, NameReference("a" * 96, "b" * 96)),
    ],
)
def test_names(text: str, reference: NameReference) -> None:
    assert parse(text) == reference
    assert str(reference) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":", "a:", ":b", "a:b:c", "a b", " a", "a\n", "a\0", "-a", "_a", "a@b", "a*"),
        *("\u00e9", "\u212aimi", "a\u202eb", "\ud800", "a" * 97, "a:" + "b" * 97),
    ],
)
def test_texts_that_are_no_names(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)


# The hub


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf:a/b", HubReference("a/b", None, None)),
        ("hf:_a/B.c_", HubReference("_a/B.c_", None, None)),
        ("hf:a/b:Q4_K_M", HubReference("a/b", None, "Q4_K_M")),
        ("hf:a/b:q4_k_m", HubReference("a/b", None, "q4_k_m")),
        ("hf:a/b:1.5B-Q4_K_M", HubReference("a/b", None, "1.5B-Q4_K_M")),
        ("hf:a/b:sub/x.gguf", HubReference("a/b", None, "sub/x.gguf")),
        ("hf:a/b:x(1).GGUF", HubReference("a/b", None, "x(1).GGUF")),
        (f"hf:a/b@{COMMIT}:Q8_0", HubReference("a/b", COMMIT, "Q8_0")),
        ("hf:a/b@refs/pr/3", HubReference("a/b", "refs/pr/3", None)),
        ("hf:a/b@v1.0+x:Q4_0", HubReference("a/b", "v1.0+x", "Q4_0")),
        ("hf:a/b:x@1.gguf", HubReference("a/b", None, "x@1.gguf")),
    ],
)
def test_repositories(text: str, reference: HubReference) -> None:
    assert parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        *("hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf://a/b", "hf:a/b ", "hf:a b/c"),
        *("hf:a--b/c", "hf:a/b..c", "hf:../b", "hf:a/b.git", "hf:-a/b", "hf:a/b-", "hf:a/b."),
        *("hf:a/b?x=1", "hf:a/b#c", "hf:a/%2e%2e", "hf:\u00e9/b", "hf:a\\b", "hf:a/" + "b" * 97),
        *("hf:a/b@", "hf:a/b@:Q4", "hf:a/b@x y", "hf:a/b@../x", "hf:a/b@a/../b", "hf:a/b@/x"),
        *("hf:a/b@x/", "hf:a/b@-x", "hf:a/b@a?b", "hf:a/b@" + "v" * 201),
        *("hf:a/b:", "hf:a/b:../x.gguf", "hf:a/b:/x.gguf", "hf:a/b:a//x.gguf", "hf:a/b:.gguf"),
        *("hf:a/b:a\\x.gguf", "hf:a/b:Q4 K M", "hf:a/b:*", "hf:a/b:a/b", "hf:a/b:Q4:Q5"),
        *("hf:a/b:" + "Q" * 101, "hf:a/b:" + "a/" * 8 + "x.gguf"),
    ],
)
def test_texts_that_are_no_repositories(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.PT", "x.pkl", "model.safetensors", "modeling_x.py"]
)
def test_other_formats_are_refused(name: str) -> None:
    for text in (
        f"hf:a/b:{name}",
        f"hf:a/b:sub/{name}",
        f"https://models.example/{name}{FRAGMENT}",
    ):
        with pytest.raises(UnsupportedFile, match="not a GGUF file"):
            parse(text)


# The web


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example/a/tiny.gguf",
        "https://models.example:8443/tiny.gguf?signature=x%20y&z=/../",
        "https://models.example/%20.gguf",
        "https://models.example/mod\u00e8le.gguf",
        "https://models.example",
        "https://xn--bcher-kva.example/x.gguf",
        "https://192.0.2.1/x.gguf",
        "https://[2001:db8::1]/x.gguf",
        "http://localhost:8080/x.gguf",
        "http://127.0.0.1/x.gguf",
        "http://[::1]:8080/x.gguf",
        "HTTPS://Models.Example/X.gguf",
    ],
)
def test_addresses(url: str) -> None:
    assert parse(url + FRAGMENT) == UrlReference(url, DIGEST)
    assert str(UrlReference(url, DIGEST)) == url + FRAGMENT
    UrlSource(url, DIGEST)


def test_a_digest_in_capitals_is_the_same_digest() -> None:
    url = "https://models.example/x.gguf"
    assert parse(f"{url}#sha256={DIGEST.upper()}") == UrlReference(url, DIGEST)


@pytest.mark.parametrize(
    "fragment",
    [
        *("", "#", "#sha256=", f"#md5={DIGEST}", f"#SHA256={DIGEST}", f"#{DIGEST}"),
        *(f"{FRAGMENT}0", f"{FRAGMENT[:-1]}", f"{FRAGMENT[:-1]}g", f"{FRAGMENT}\n"),
        *(f"#x{FRAGMENT}", f"{FRAGMENT}{FRAGMENT}", f"#sha256= {DIGEST[1:]}"),
    ],
)
def test_an_address_without_a_good_digest_is_refused(fragment: str) -> None:
    with pytest.raises(InvalidReference):
        parse(f"https://models.example/tiny.gguf{fragment}")


@pytest.mark.parametrize(
    "url",
    [
        *("http://models.example/x.gguf", "http://127.0.0.1.nip.io/x.gguf", "http://10.0.0.1/x"),
        *("ftp://models.example/x.gguf", "file:///etc/passwd", "https:///x.gguf", "https://"),
        *("https://user:s3cret@models.example/x.gguf", "https://user:s3cret@/x", "https://@h/x"),
        *(
            "https://a\\s3cret@h/x",
            "https://models.example\\x.gguf",
            "https://h h/x",
            "https://h/ x",
        ),
        *(
            "https://h:port/x",
            "https://h:/x",
            "https://h:65536/x",
            "https://h:8:8/x",
            "https://:8/x",
        ),
        *("https://999.1.1.1/x", "https://127.1/x", "https://[::1/x", "https://[1:2]/x"),
        *("https://[127.0.0.1]/x", "https://::1/x", "https://-h/x", "https://%68/x"),
        *("https://h/a/../x.gguf", "https://h/x.bin/.", "https://m\u00f6del.example/x.gguf"),
    ],
)
def test_addresses_that_are_not_asked(url: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse(url + FRAGMENT)
    assert "s3cret" not in f"{caught.value}{caught.value.hint}"


# Files here


@pytest.mark.parametrize(
    ("text", "path", "shown"),
    [
        ("file.gguf", "file.gguf", "file.gguf"),
        ("File.GGUF", "File.GGUF", "File.GGUF"),
        ("./file.gguf", "file.gguf", "file.gguf"),
        ("./model", "model", "./model"),
        ("./model:7b", "model:7b", "./model:7b"),
        ("./hf:a/b", "hf:a/b", "./hf:a/b"),
        ("./~x", "~x", "./~x"),
        ("a/b", "a/b", "a/b"),
        ("a b/c d.gguf", "a b/c d.gguf", "a b/c d.gguf"),
        ("/models/x.gguf", "/models/x.gguf", "/models/x.gguf"),
        ("../x", "../x", "../x"),
        (".", ".", "."),
        ("https:/x.gguf", "https:/x.gguf", "https:/x.gguf"),
    ],
)
def test_files(text: str, path: str, shown: str) -> None:
    reference = parse(text)
    assert reference == PathReference(Path(path))
    assert str(reference) == shown
    assert parse(shown) == reference


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse("~/x.gguf") == PathReference(Path("/home/someone/x.gguf"))
    monkeypatch.setenv("HOME", "/" + "h" * MAX_REFERENCE)
    with pytest.raises(InvalidReference):
        parse("~/x.gguf")


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(InvalidReference, match="home of nobody"):
        parse("~no-such-user-here/x.gguf")


# Everything


def attempt(text: str) -> Reference | None:
    try:
        return parse(text)
    except (InvalidReference, UnsupportedFile):
        return None


ODD = st.sampled_from(list("aB0/:@#.~-_ ?=[]%\\+\n\u00e9\u212a"))
WORDS = st.sampled_from(
    [
        *("hf:", "a/b", "https://", "http://", "h", "[::1]", "127.0.0.1", ".gguf", ".bin", "./"),
        *("Q4_K", FRAGMENT, "localhost", "..", "~/", "x" * 200, "/.", "@main", "%2e", ":8080"),
    ]
)
TEXTS = st.text(max_size=40) | st.lists(ODD | WORDS, max_size=10).map("".join)


@given(TEXTS)
@example("x" * (MAX_REFERENCE - 1) + "/")
@example("./hf:")
@example("./https:/x")
@example("././~")
def test_parsing_refuses_or_gives_what_prints_as_itself(text: str) -> None:
    reference = attempt(text)
    if reference is not None:
        assert parse(str(reference)) == reference


URLS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["https://", "HTTPS://", "http://", "ftp://"]),
    st.text("aZ0.-_:@[]1\u00e9", max_size=12)
    | st.sampled_from(["h", "127.0.0.1", "[::1]:80", "1.2.3", "h.7"])
    | st.ip_addresses().map(str),
    st.text("/.%2eabin?[]~\u00e9\\ |", max_size=16).map(lambda path: "/" + path),
    st.sampled_from(["", ".bin", "/x.pt/.", "?q", "/x.gguf"]),
)


@given(URLS)
def test_an_address_that_is_read_is_one_that_can_be_asked(url: str) -> None:
    reference = attempt(url + FRAGMENT)
    if isinstance(reference, UrlReference):
        UrlSource(reference.url, reference.sha256)


REPOSITORIES = st.builds(
    "hf:{}/{}{}{}".format,
    st.text("aB0-_.", min_size=1, max_size=6),
    st.text("aB0-_.", min_size=1, max_size=6),
    st.just("") | st.text("av0/.-+", max_size=8).map(lambda revision: "@" + revision),
    st.just("") | st.sampled_from(["Q4_K_M", "x.gguf", "s/x.gguf"]).map(lambda one: ":" + one),
)


@given(REPOSITORIES)
def test_a_repository_that_is_read_is_one_that_can_be_asked(text: str) -> None:
    reference = attempt(text)
    if isinstance(reference, HubReference):
        paths = None if reference.choice is None else (reference.choice,)
        HubSource(reference.repository, revision=reference.revision, paths=paths)


def test_reading_loads_nothing_that_could_ask() -> None:
    code = (
        "import sys\nfrom freehold.weights.reference import parse\n"
        f"parse('hf:a/b:Q4_K_M'), parse('https://models.example/x.gguf{FRAGMENT}')\n"
        "assert not {'httpx2', 'huggingface_hub', 'socket'} & set(sys.modules)"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        timeout=60,
    )
