"""The page's other language has words for every sentence and error of the server."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold.domain.error_values import CARRIED
from freehold.domain.errors import FreeholdError
from freehold.trust.licences import bundled
from freehold.trust.overrides import bundled as overrides
from freehold.trust.verdict import Use

ROOT = Path(__file__).parents[2]
WORDS = ROOT / "web" / "src" / "words"
JAPANESE = (WORDS / "sentences.ja.ts").read_text("utf-8")
WORDED = {
    code: set(re.findall(r"\w+(?=\s*[,:}])", names or ""))
    for code, names in re.findall(r'"([a-z0-9_]+\.[a-z0-9_]+)": \((?:(\{[^}]*\}))?\) =>', JAPANESE)
}


_ERRORS = re.search(r"\n  errors: \{\n(.*?)\n  \},\n", (WORDS / "ja.ts").read_text("utf-8"), re.S)
WORDED_ERRORS = dict(re.findall(r'^    (\w+):\s+"(.+)",$', _ERRORS[1] if _ERRORS else "", re.M))


IN_BRACKETS = re.compile(r"\[[^\]]*\]")
NAME = re.compile(r"\{(\w+)\}")


def called(node: ast.AST) -> Iterator[tuple[str, set[str] | None]]:
    """Codes given to `said`, and the names of what is said with them; None: not written there."""
    for call in ast.walk(node):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            continue
        if call.func.id not in ("said", "ReasonRow"):
            continue
        names = {each.arg for each in call.keywords if each.arg is not None}
        whole = None if any(each.arg is None for each in call.keywords) else names
        for code in ast.walk(call.args[0]):
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                yield code.value, whole


def in_the_code() -> Iterator[tuple[str, set[str] | None]]:
    for path in (ROOT / "src" / "freehold").rglob("*.py"):
        text = path.read_text("utf-8")
        if "domain.sentences import" in text:
            yield from called(ast.parse(text))
            # Where the code is chosen before it is said.
            for code in re.findall(r'code(?:, \w+)? = "([a-z0-9_]+\.[a-z0-9_]+)"', text):
                yield code, None


def in_the_tables() -> Iterator[tuple[str, set[str]]]:
    for row in bundled().rows:
        duties = tuple(duty.sentence for duty in row.duty)
        for each in (*duties, *row.reasons(Use.RUN), *row.reasons(Use.SERVE)):
            yield each.code, set(each.values)
    for licensor in overrides().override:
        yield licensor.code, set(licensor.sentence.values)
    for change in overrides().change:
        yield change.code, set(change.sentence.values)


SAID = sorted(dict((*in_the_code(), *in_the_tables())).items())


def test_both_are_found() -> None:
    assert len(SAID) > 120
    assert {"plan.memory", "tuning.no_gain", "verdict.empty", "duty.give_copy"} <= set(WORDED)


@pytest.mark.parametrize(("code", "names"), SAID, ids=[code for code, _ in SAID])
def test_it_has_words_and_asks_for_nothing_that_is_not_said(
    code: str, names: set[str] | None
) -> None:
    assert code in WORDED, f"{code} has no words in web/src/words/sentences.ja.ts"
    if names is not None:
        assert WORDED[code] <= names | {"place"}, code


def test_no_words_are_left_over() -> None:
    assert set(WORDED) - {code for code, _ in SAID} - {"basis.parts"} == set()


def kinds(kind: type[FreeholdError]) -> Iterator[type[FreeholdError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from kinds(each)


def error_codes() -> set[str]:
    """Of the tree, wherever its classes are, and of what routes refuse for reasons of their own."""
    found = {"http_error", "search_failed"}  # where the code is not written beside `Problem`
    for path in (ROOT / "src" / "freehold").rglob("*.py"):
        text = path.read_text("utf-8")
        if re.search(r'^    code = "|super\(\)\.__init__\(.*values=', text, re.M):
            importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
        found |= set(re.findall(r'Problem\(\s*\d+,\s*"(\w+)"', text))
    ours = (kind for kind in kinds(FreeholdError) if kind.__module__.startswith("freehold."))
    return found | {kind.code for kind in ours}


@pytest.mark.parametrize("code", sorted(error_codes()))
def test_every_error_says_in_japanese_what_to_do_next(code: str) -> None:
    assert code in WORDED_ERRORS, f"{code} has no words in web/src/words/ja.ts"
    sentences = IN_BRACKETS.sub("", WORDED_ERRORS[code]).removesuffix("。").split("。")
    assert len(sentences) > 1, f"{code}: what is wrong, then what to do"


@pytest.mark.parametrize("code", sorted(WORDED_ERRORS))
def test_an_error_asks_for_no_values_that_it_never_has(code: str) -> None:
    """They stand in brackets, which are left out without them (`web/src/pure/filling.ts`)."""
    sentence = WORDED_ERRORS[code]
    assert set(NAME.findall(sentence)) <= set(CARRIED.get(code, ()))
    assert NAME.findall(IN_BRACKETS.sub("", sentence)) == []


def given() -> Iterator[tuple[str, str]]:
    """A code and a value, wherever an error is made with some."""
    codes = {kind.__name__: kind.code for kind in kinds(FreeholdError)}
    for path in (ROOT / "src" / "freehold").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for kind in ast.walk(tree):  # where a class of errors makes itself
            if isinstance(kind, ast.ClassDef) and kind.name in codes:
                yield from ((codes[kind.name], name) for name in values_in(kind))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and (code := code_of(call, codes)) is not None:
                yield from ((code, name) for name in values_in(call))


def values_in(node: ast.AST) -> Iterator[str]:
    for call in ast.walk(node):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            if keyword.arg == "values" and isinstance(keyword.value, ast.Dict):
                yield from (str(ast.literal_eval(name)) for name in keyword.value.keys if name)


def code_of(call: ast.Call, codes: dict[str, str]) -> str | None:
    name = getattr(call.func, "id", "")
    if name == "Problem" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
        return str(call.args[1].value)
    return codes.get(name)


def test_every_value_of_an_error_is_promised() -> None:
    error_codes()  # every class is imported
    found = set(given())
    assert len(found) > 50
    promised = {(code, name) for code, names in CARRIED.items() for name in names}
    assert found - promised == set()
    # Of those that are made elsewhere than beside their error, these are all.
    assert promised - found - {(code, "field") for code in CARRIED} == {
        *((code, "retry_after") for code in CARRIED if "retry_after" in CARRIED[code]),
        *(("invalid_field", name) for name in ("least", "above", "most", "below", "longest")),
        *(("gated_model", name) for name in ("repository", "host")),
        ("upstream_limited", "upstream"),
        *(("invalid_reference", name) for name in ("repository", "choices")),
    }


def test_the_documentation_lists_the_values_of_errors() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`.*`) \|$", (ROOT / "docs" / "api.md").read_text(), re.M)
    told = {code: tuple(re.findall(r"`(\w+)`", names)) for code, names in rows}
    assert {code: told.get(code) for code in CARRIED} == dict(CARRIED)


def test_no_words_for_errors_are_left_over() -> None:
    assert set(WORDED_ERRORS) - error_codes() == set()
