"""A licence is its words: what may differ between two copies, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.trust import licence_text, licences
from freehold.trust.facts import Rank

TABLE = licences.bundled()
TEXTS = Path(licences.__file__).parent / "texts"
MIT = (TEXTS / "mit.txt").read_text()


def found(text: str) -> str | None:
    row = TABLE.worded(licence_text.digest(text))
    return row.id if row is not None else None


@pytest.mark.parametrize(
    "text",
    [
        MIT,
        MIT.upper(),
        MIT.replace("\n", "\r\n"),
        " ".join(MIT.split()),
        MIT.replace('"', "\u201c"),
        MIT.replace(",", " , ").replace("Permission", "**Permission**"),
        "MIT License\n\nCopyright (c) 2023 DeepSeek\n\n" + MIT,
        "The MIT License (MIT)\n\nCopyright © 2019-2024 Åse & Söhne GmbH. All rights reserved.\n\n"
        + MIT,
        "Copyright 2020 One\nCopyright 2021 Two\n" + MIT,
        "MIT License\n\nCopyright (c) [year] [fullname]\n\n" + MIT,
        "\ufeff" + MIT,
    ],
)
def test_copies_that_differ_in_nothing_that_counts(text: str) -> None:
    assert found(text.encode().decode("utf-8-sig")) == "mit"


@pytest.mark.parametrize(
    "text",
    [
        MIT + "\nNo commercial use.",
        MIT.replace("without restriction", "with restriction"),
        "Copyright (c) 2024 Me. Not to be used commercially.\n" + MIT,
        "Copyright (c) 2024 Me, for research purposes\n" + MIT,
        MIT[:-200],
        "Copyright (c) 2024 " + "x" * 300 + "\n" + MIT,
    ],
)
def test_copies_that_say_something_else(text: str) -> None:
    assert found(text) is None


def test_lines_that_only_begin_like_a_copyright_line_stay() -> None:
    lines = "The above\ncopyright notice and this permission notice shall be included"
    assert "copyright notice" in licence_text.normalise(lines)
    assert "copyright holders" in licence_text.normalise("COPYRIGHT HOLDERS BE LIABLE")


def test_the_same_licence_from_two_sources_is_one() -> None:
    apache = (TEXTS / "apache-2.0.txt").read_text()
    filled = apache.replace("[yyyy]", "2024").replace("[name of copyright owner]", "Alibaba Cloud")
    assert found(filled) == "apache-2.0"
    assert found(apache.partition("END OF TERMS AND CONDITIONS")[0]) == "apache-2.0"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("MIT License\n\nCopyright (c) 2023 DeepSeek\n", "Copyright (c) 2023 DeepSeek"),
        ("   Copyright 2023   Alibaba Cloud", "Copyright 2023 Alibaba Cloud"),
        ("© 2024 Someone", "© 2024 Someone"),
        ("Copyright (c) Microsoft Corporation.", "Copyright (c) Microsoft Corporation."),
        ("Copyright [yyyy] [name of copyright owner]", None),
        ("Copyright (c) <year> <copyright holders>", None),
        ("All rights reserved.", None),
        (MIT, None),
        ("", None),
    ],
)
def test_the_holder_is_found(text: str, line: str | None) -> None:
    assert licence_text.copyright_line(text) == line


@pytest.mark.parametrize(
    "data", [b"", b"\n \n", b"\xef\xbb\xbf", b"Copyright (c) 2024 Me\n", b"---"]
)
def test_a_file_without_words_is_empty(data: bytes) -> None:
    assert licence_text.is_empty(licence_text.read(data).normalised_sha256)


def test_a_file_becomes_evidence() -> None:
    data = b"Copyright (c) 2024 Me\n" + MIT.encode()
    evidence = licence_text.read(data).evidence("hf:a/b:LICENSE")
    assert evidence.rank is Rank.LICENCE_FILE
    assert evidence.copyright == "Copyright (c) 2024 Me"
    assert evidence.text_sha256 != evidence.normalised_sha256


def test_a_huge_file_is_read_to_a_bound() -> None:
    huge = b"word " * (licence_text.LONGEST_TEXT // 2)
    assert licence_text.read(huge).normalised_sha256 == licence_text.digest(
        huge[: licence_text.LONGEST_TEXT].decode()
    )


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    licence_text.read(data)


@given(st.text(max_size=200))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = licence_text.normalise(text)
    if "copyright" not in once and "rights reserved" not in once:
        assert licence_text.normalise(once) == once
