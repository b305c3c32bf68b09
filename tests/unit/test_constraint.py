"""Answers that fit a grammar: the masks of a tiny vocabulary, walked at random."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar
from freehold.engines.llamacpp.probe_model import (
    END_OF_TEXT,
    IM_END,
    IM_START,
    VOCABULARY_SIZE,
    byte_alphabet,
)
from freehold.weights.gguf_types import ValueType
from freehold.weights.gguf_writer import Array
from tests.support.tiny_model import write_tiny_llama

if TYPE_CHECKING:
    from freehold.text.constraint import ConstraintCompiler, Mask, Matcher
    from freehold.text.vocabulary import Vocabulary

pytestmark = pytest.mark.native

ENDS = {END_OF_TEXT, IM_END}

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
        "home": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
        },
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(value: object) -> Constraint:
    return Constraint(Grammar.JSON_SCHEMA, json.dumps(value))


def regex(text: str) -> Constraint:
    return Constraint(Grammar.REGEX, text)


def lark(text: str) -> Constraint:
    return Constraint(Grammar.LARK, text)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    from freehold.text.vocabulary import close_vocabulary, open_vocabulary

    path = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")
    vocabulary = open_vocabulary([path])
    yield vocabulary
    close_vocabulary(vocabulary)


@pytest.fixture(scope="module")
def compiler(vocabulary: Vocabulary) -> ConstraintCompiler:
    from freehold.text.constraint import ConstraintCompiler

    return ConstraintCompiler(vocabulary)


def allowed(mask: Mask) -> set[int]:
    return {i for i in range(32 * len(mask)) if int(mask[i // 32]) >> (i % 32) & 1}


def write(matcher: Matcher, vocabulary: Vocabulary, text: str) -> None:
    """Accept ``text`` in the vocabulary's own tokens, each of which must be allowed."""
    for token in vocabulary.tokenize(text, special=True):
        assert token in allowed(matcher.mask())
        matcher.accept(token)


def write_bytes(matcher: Matcher, text: str) -> None:
    """Accept ``text`` byte by byte, which any grammar can follow."""
    for byte in text.encode():
        matcher.accept(byte)


def repeat(matcher: Matcher, token: int, times: int) -> None:
    for _ in range(times):
        assert token in allowed(matcher.mask())
        matcher.accept(token)


def walk(matcher: Matcher, vocabulary: Vocabulary, seed: int, limit: int = 400) -> bytes | None:
    """A random answer under the mask; None if it came to no end."""
    chooser = random.Random(seed)
    answer = b""
    for _ in range(limit):
        if matcher.finished:
            return answer
        choices = sorted(allowed(matcher.mask()))
        assert choices
        if ENDS & set(choices) and chooser.random() < 0.5:
            return answer
        token = chooser.choice([t for t in choices if t not in ENDS] or choices)
        if token in ENDS:
            return answer
        matcher.accept(token)
        answer += vocabulary.piece(token)
    return None


# What is allowed


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        set(value) <= set(PERSON["properties"])  # type: ignore[call-overload]
        and len(value["name"]) <= 8
        and 0 <= value["age"] <= 150
        and set(value.get("tags", [])) <= {"red", "green"}
        and re.fullmatch(r"[0-9]{5}", value.get("home", {}).get("zip", "00000")) is not None
    )


def is_tree(text: str) -> bool:
    def good(node: Any) -> bool:
        return set(node) == {"v", "kids"} and all(good(kid) for kid in node["kids"])

    return good(json.loads(text))


def fully(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


TREE = {
    "type": "object",
    "properties": {
        "v": {"type": "integer", "maximum": 9, "minimum": 0},
        "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
    },
    "required": ["v", "kids"],
    "additionalProperties": False,
}

GRAMMARS: dict[str, tuple[Constraint, Callable[[str], bool]]] = {
    "object": (schema(PERSON), is_person),
    "recursive": (schema(TREE), is_tree),
    "enum": (schema({"enum": ["one", 2, None]}), lambda text: json.loads(text) in ["one", 2, None]),
    "boolean": (schema({"type": "boolean"}), fully("true|false")),
    "unicode": (schema({"const": "naïve 漢字"}), lambda text: json.loads(text) == "naïve 漢字"),
    "regex": (
        regex(r"[a-z]{1,5}@(home|work)\.(org|com)"),
        fully(r"[a-z]{1,5}@(home|work)\.(org|com)"),
    ),
    "regex of bytes": (regex("(漢|é|a){1,4}"), fully("(漢|é|a){1,4}")),
    "optional": (regex("a?b?"), fully("a?b?")),
    "lark": (
        lark('start: sum "="\nsum: NUMBER ("+" NUMBER){0,3}\nNUMBER: /[0-9]{1,3}/'),
        fully(r"[0-9]{1,3}(\+[0-9]{1,3}){0,3}="),
    ),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_whatever_is_written_under_the_mask_fits(
    compiler: ConstraintCompiler, vocabulary: Vocabulary, name: str
) -> None:
    constraint, fits = GRAMMARS[name]
    ended = 0
    for seed in range(30):
        answer = walk(compiler.compile(constraint), vocabulary, seed)
        if answer is not None:
            ended += 1
            assert fits(answer.decode())
    assert ended >= 25


def test_the_first_wrong_token_is_refused(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(regex("the cat"))
    write(matcher, vocabulary, "the c")
    # What must come comes in the model's own tokens.
    assert allowed(matcher.mask()) == {merged(vocabulary, "at")}
    with pytest.raises(ValueError, match="does not fit"):
        matcher.accept(ord("x"))
    matcher = compiler.compile(regex("the c(at|ow)"))
    write(matcher, vocabulary, "the c")
    assert allowed(matcher.mask()) == {ord("a"), merged(vocabulary, "at"), ord("o")}


def test_a_refused_token_changes_nothing(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(regex("abc"))
    for token in (ord("b"), IM_END, IM_START):
        with pytest.raises(ValueError, match="does not fit"):
            matcher.accept(token)
    write(matcher, vocabulary, "abc")
    assert matcher.finished


def test_the_turn_may_end_exactly_where_the_grammar_may(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(regex("ab(cd)?"))
    for text, may_end in (("a", False), ("b", True), ("c", False)):
        write(matcher, vocabulary, text)
        assert ENDS & allowed(matcher.mask()) == (ENDS if may_end else set())
        assert not matcher.finished
    write(matcher, vocabulary, "d")
    assert matcher.finished
    assert allowed(matcher.mask()) == ENDS
    for end in ENDS:
        matcher.accept(end)
        assert matcher.finished


@pytest.mark.parametrize("end", sorted(ENDS))
def test_every_end_token_ends_the_answer(
    compiler: ConstraintCompiler, vocabulary: Vocabulary, end: int
) -> None:
    matcher = compiler.compile(regex("a+"))
    write(matcher, vocabulary, "aa")
    matcher.accept(end)
    assert matcher.finished


def test_control_tokens_are_no_text(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    matcher = compiler.compile(schema({"type": "string"}))
    write(matcher, vocabulary, '"')
    mask = allowed(matcher.mask())
    assert ord("x") in mask
    assert not mask & {END_OF_TEXT, IM_START, IM_END}
    write(compiler.compile(regex(r"<\|im_end\|>")), vocabulary, "<|im_")  # in ordinary tokens


def test_a_byte_that_is_in_no_text_is_never_allowed(compiler: ConstraintCompiler) -> None:
    assert 0xFF not in allowed(compiler.compile(regex("(?s:.*)")).mask())


def test_the_mask_covers_the_vocabulary(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    assert vocabulary.size == VOCABULARY_SIZE
    for constraint in (regex("a"), Constraint(Grammar.REGEX, "a", after="b")):
        mask = compiler.compile(constraint).mask()
        assert mask.dtype == "uint32"
        assert mask.shape == (VOCABULARY_SIZE // 32,)


@pytest.mark.parametrize("white", ["  ", "\n\n\n", "\n" + " " * 41, "\t", "\r\n"])
def test_whitespace_has_an_end(
    compiler: ConstraintCompiler, vocabulary: Vocabulary, white: str
) -> None:
    matcher = compiler.compile(schema({"type": "array"}))
    with pytest.raises(ValueError, match="does not fit"):
        write_bytes(matcher, f"[{white}")


def test_indented_json_is_allowed(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    person = {"name": "Ada", "age": 36, "tags": ["red"], "home": {"zip": "12345"}}
    for indent in (None, 1, 4):
        matcher = compiler.compile(schema(PERSON))
        write_bytes(matcher, json.dumps(person, indent=indent))
        assert matcher.finished


def test_matchers_are_independent(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    first, second = (compiler.compile(regex("abc")) for _ in range(2))
    write(first, vocabulary, "ab")
    mask = first.mask()
    write(second, vocabulary, "a")
    assert allowed(second.mask()) == {ord("b")}
    assert allowed(mask) == {ord("c")}


# After a free part


def after(marker: str, text: str = r"\{a*\}") -> Constraint:
    return Constraint(Grammar.REGEX, text, after=marker)


def test_the_free_part_allows_everything_but_the_end_of_the_turn(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(after("</think>"))
    everything = set(range(VOCABULARY_SIZE))
    assert allowed(matcher.mask()) == everything - ENDS
    for end in ENDS:
        with pytest.raises(ValueError, match="would end the turn"):
            matcher.accept(end)
    write(matcher, vocabulary, "{a} <|im_start|> thinking </thin> </think")
    assert allowed(matcher.mask()) == everything - ENDS
    assert not matcher.finished
    write(matcher, vocabulary, ">")
    assert allowed(matcher.mask()) == {ord("{")}
    write(matcher, vocabulary, "{aa}")
    assert matcher.finished


def test_the_marker_may_be_a_control_token(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(after("<|im_start|>"))
    matcher.accept(ord("x"))
    matcher.accept(IM_START)
    assert allowed(matcher.mask()) == {ord("{")}


def test_a_token_that_ends_the_turn_is_no_marker(compiler: ConstraintCompiler) -> None:
    matcher = compiler.compile(after("<|im_end|>"))
    assert IM_END not in allowed(matcher.mask())


def merged(vocabulary: Vocabulary, text: str) -> int:
    (token,) = vocabulary.tokenize(text, special=False)
    assert token >= 256
    return token


def test_what_a_token_writes_after_the_marker_begins_the_grammar(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    token = merged(vocabulary, " the")
    matcher = compiler.compile(after(" t", "(he|en)!"))
    assert token in allowed(matcher.mask())
    matcher.accept(token)
    assert allowed(matcher.mask()) == {ord("!")}


def test_a_token_whose_overshoot_completes_the_grammar(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(after(" t", "he"))
    matcher.accept(merged(vocabulary, " the"))
    assert matcher.finished


def test_a_token_that_writes_the_marker_and_what_does_not_fit_is_refused(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    the, t = merged(vocabulary, " the"), merged(vocabulary, " t")
    matcher = compiler.compile(after(" t", "x"))
    mask = allowed(matcher.mask())
    assert the not in mask
    assert {t, ord(" "), ord("t")} <= mask
    with pytest.raises(ValueError, match="does not fit"):
        matcher.accept(the)


def test_an_overshoot_after_half_a_marker(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    the = merged(vocabulary, " the")
    for text, fits in (("he", True), ("she", False)):
        matcher = compiler.compile(after("end t", text))
        write(matcher, vocabulary, "the end")
        assert (the in allowed(matcher.mask())) == fits
        write(matcher, vocabulary, " and")  # no marker after all
        assert the in allowed(matcher.mask())


def with_tokens(folder: Path, *extra: str) -> Path:
    """A tiny model whose last merged tokens are spelled otherwise."""
    letters = byte_alphabet()
    spelled = ["".join(letters[byte] for byte in text.encode()) for text in extra]
    plain = [*letters, *(f"unused{n}" for n in range(END_OF_TEXT - 256 - len(extra))), *spelled]
    tokens = [*plain, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return write_tiny_llama(
        folder / "spelled.gguf",
        metadata={
            "tokenizer.ggml.tokens": Array(ValueType.STRING, tokens),
            "tokenizer.ggml.merges": Array(ValueType.STRING, []),
        },
    )


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    """With tokens that write a marker and more."""
    from freehold.text.vocabulary import close_vocabulary, open_vocabulary

    folder = tmp_path_factory.mktemp("marked")
    vocabulary = open_vocabulary(
        [with_tokens(folder, "k>\n\n", "k>\n{", "k>{x", "think>", "</think>\n", "aaa")]
    )
    yield vocabulary
    close_vocabulary(vocabulary)


def token(vocabulary: Vocabulary, text: str) -> int:
    return next(t for t in range(256, vocabulary.size) if vocabulary.piece(t) == text.encode())


@pytest.mark.parametrize(
    ("before", "last", "then"),
    [
        ("so</thin", "k>\n\n", {"{"}),
        ("so</thin", "k>\n{", {"a", "}"}),
        ("so</thin", "k>{x", None),
        ("so</", "think>", {"{"}),
        ("so", "</think>\n", {"{"}),
        ("so", "k>{x", {*map(chr, range(256))}),
    ],
)
def test_whitespace_after_the_marker_counts_for_nothing(
    marked: Vocabulary, before: str, last: str, then: set[str] | None
) -> None:
    from freehold.text.constraint import ConstraintCompiler

    matcher = ConstraintCompiler(marked).compile(after("</think>"))
    write_bytes(matcher, before)
    chosen = token(marked, last)
    assert (chosen in allowed(matcher.mask())) == (then is not None)
    if then is None:
        with pytest.raises(ValueError, match="does not fit"):
            matcher.accept(chosen)
        return
    matcher.accept(chosen)
    assert {chr(t) for t in allowed(matcher.mask()) if t < 256} == then


def test_a_marker_that_overlaps_itself_is_complete_at_the_first_chance(marked: Vocabulary) -> None:
    from freehold.text.constraint import ConstraintCompiler

    matcher = ConstraintCompiler(marked).compile(after("aa", "(a|aa)b"))
    matcher.accept(ord("a"))
    matcher.accept(token(marked, "aaa"))  # aa, then aa of the grammar
    assert allowed(matcher.mask()) == {ord("b")}


@pytest.mark.parametrize("marker", ["</think>", "aab", "aa", "ab\n"])
def test_mask_and_accept_agree_in_the_free_part(marked: Vocabulary, marker: str) -> None:
    """Every token is accepted exactly where the mask allows it, whatever was written before."""
    from freehold.text.constraint import ConstraintCompiler

    compiler = ConstraintCompiler(marked)
    chooser = random.Random(marker)
    texts = [marker[:n] for n in range(len(marker))]
    texts += ["".join(chooser.choices("ab</think", k=6)) for _ in range(5)]
    for before in texts:
        if marker in before:
            continue
        for chosen in [*range(32), *map(ord, "ab</think>"), *range(256, marked.size)]:
            matcher = compiler.compile(after(marker, "[ab]+"))
            write_bytes(matcher, before)
            may = chosen in allowed(matcher.mask())
            try:
                matcher.accept(chosen)
            except ValueError:
                assert not may
            else:
                assert may


@pytest.mark.parametrize("marker", ["", "x" * 65])
def test_a_marker_of_a_bad_length_is_refused(compiler: ConstraintCompiler, marker: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{len(marker)} characters") as caught:
        compiler.compile(after(marker))
    assert caught.value.field == "response_format"


# Refusals

REFUSED = {
    "unsupported keyword": (
        schema({"type": "array", "uniqueItems": True}),
        'keywords: "uniqueItems"',
    ),
    "nested keyword": (schema({"items": {"if": {}, "then": {}}}), 'keywords: "if", "then"'),
    "options": (schema({"x-guidance": {"lenient": True}}), 'keywords: "x-guidance"'),
    "lenient in lark": (lark('start: %json {"x-guidance":{"lenient":true},"not":{}}'), '"not"'),
    "unknown format": (schema({"type": "string", "format": "iri"}), "Unknown format: iri"),
    "overlapping oneOf": (schema({"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "use anyOf"),
    "remote reference": (schema({"$ref": "https://example.org/x"}), "example.org"),
    "missing reference": (schema({"$ref": "#/$defs/no"}), "/\\$defs/no"),
    "contradiction": (schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
    "look-around": (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
    "nothing fits": (schema({"$ref": "#"}), "no text fits"),
    "false": (schema(False), "allows no answer"),
    "number": (schema(3), "must be an object"),
    "array": (schema([]), "must be an object"),
    "no JSON": (Constraint(Grammar.JSON_SCHEMA, '{"a":'), "not JSON: .* line 1, column 6"),
    "empty": (Constraint(Grammar.JSON_SCHEMA, ""), "not JSON"),
    "not a number": (Constraint(Grammar.JSON_SCHEMA, '{"const": NaN}'), "cannot be used"),
    "long number": (Constraint(Grammar.JSON_SCHEMA, '{"const": ' + "9" * 5000 + "}"), "digits"),
    "deep": (
        Constraint(Grammar.JSON_SCHEMA, '{"items":' * 9000 + "{}" + "}" * 9000),
        "nested|recurs",
    ),
    "half a character": (regex("\ud800"), "half a character"),
    "unclosed": (regex("(a"), "unclosed group\\.$"),
    "word boundary": (regex(r"\bfoo"), "not supported"),
    "deep regex": (regex("(" * 5000 + "a" + ")" * 5000), "nested"),
    "no start": (lark("begin: /a/"), "no start rule"),
    "syntax": (lark('start: "a" |\nb: "'), "line 2, column"),
    "unknown rule": (lark("start: foo"), 'line 1, column 8: unknown name: "foo"'),
    "brace": (lark('{"grammars": [{"json_schema": {}}]}'), "line 1, column 1"),
    "unknown special": (lark("start: <|nope|>"), "unknown special token"),
    "deep lark": (lark("start: " + "(" * 9000 + '"a"' + ")" * 9000), "nested"),
    "large": (regex("a" * (256 * 1024 + 1)), "262145 bytes; at most 262144"),
    "million": (schema({"enum": ["x" * 1_000_000]}), "at most 262144"),
    "doubled": (
        lark("start: T0\n" + "".join(f"T{n}: T{n + 1} T{n + 1}\n" for n in range(40)) + "T40: /a/"),
        "too big",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_reason_in_one_sentence(
    compiler: ConstraintCompiler, name: str
) -> None:
    constraint, reason = REFUSED[name]
    with pytest.raises(InvalidRequest, match=reason) as caught:
        compiler.compile(constraint)
    assert caught.value.field == "response_format"
    message = caught.value.message
    assert message.startswith(("The JSON schema ", "The regular expression ", "The Lark grammar "))
    assert message.endswith(".")
    assert "\n" not in message
    assert "backtrace" not in message
    assert len(message) < 300


def test_true_allows_any_json(compiler: ConstraintCompiler, vocabulary: Vocabulary) -> None:
    matcher = compiler.compile(schema(True))
    write_bytes(matcher, '{"a": [1, "b", null]}')
    assert matcher.finished


# Grammars meant to hurt: fine, or refused on the way, but never an answer that does not fit


def doubling(depth: int) -> Constraint:
    """A schema whose values are trees of 2**depth leaves."""
    parts: dict[str, object] = {f"d{depth}": {"type": "string"}}
    for n in range(depth):
        following = {"$ref": f"#/$defs/d{n + 1}"}
        parts[f"d{n}"] = {"properties": {"a": following, "b": following}}
    return schema({"$defs": parts, "$ref": "#/$defs/d0"})


def wide(properties: int) -> Constraint:
    return schema(
        {"type": "object", "properties": {f"p{n}": {"maxLength": 9} for n in range(properties)}}
    )


NESTED = '{"type":"array","items":' * 100 + "{}" + "}" * 100

HOSTILE: dict[str, tuple[Constraint, str | None]] = {
    "exponential": (regex("(a|b)*a(a|b){20}"), "(a|b)*a(a|b){20}"),
    "nested stars": (regex("(x+x+)+y"), "x{2,}y"),
    "nested counts": (regex("((a{0,1000}){0,1000}){0,1000}"), "a*"),
    "many options": (regex("(a?){5000}a{5000}"), None),
    "unicode classes": (regex(r"(\p{L}+\p{N}*){1,300}"), None),
    "many words": (regex("|".join(f"word{n}x" for n in range(20_000))), r"word\d+x"),
    "huge enum": (schema({"enum": [f"value {n}" for n in range(10_000)]}), r'"value \d+"'),
    "many properties": (wide(1500), None),
    "nested arrays": (Constraint(Grammar.JSON_SCHEMA, NESTED), None),
    "doubling": (doubling(30), None),
    "doubled rules": (
        lark("start: r0\n" + "".join(f"r{n}: r{n + 1} r{n + 1}\n" for n in range(40)) + 'r40: "a"'),
        None,
    ),
    "ambiguous rules": (lark('start: e\ne: x e x | "a"\nx: e | '), "a+"),
    "counted rules": (lark('start: ((("a"{0,1000}){0,1000}){0,1000})'), "a*"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_grammar_meant_to_hurt(
    compiler: ConstraintCompiler, vocabulary: Vocabulary, name: str
) -> None:
    constraint, pattern = HOSTILE[name]
    for seed in range(3):
        answer = None
        with contextlib.suppress(InvalidRequest):
            answer = walk(compiler.compile(constraint), vocabulary, seed, limit=150)
        if answer is not None and pattern is not None:
            assert re.fullmatch(pattern, answer.decode(), re.DOTALL)


def test_a_limit_met_on_the_way_is_an_error_and_no_end(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    matcher = compiler.compile(regex("(a?){5000}a{5000}"))
    with pytest.raises(InvalidRequest, match="too complex to follow"):
        repeat(matcher, ord("a"), 200)
    assert not matcher.finished
    with pytest.raises(InvalidRequest, match="too complex to follow"):
        matcher.mask()


def test_a_grammar_that_becomes_slower_and_slower_is_given_up(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=0.03)
    matcher = compiler.compile(regex("a*"))
    monkeypatch.setattr("time.thread_time", lambda: next(clock))
    with pytest.raises(InvalidRequest, match="takes too long"):
        repeat(matcher, ord("a"), 20)


def test_a_rehearsal_finds_what_waits_on_the_way(compiler: ConstraintCompiler) -> None:
    compiler.compile(schema(PERSON)).rehearse()
    compiler.compile(dataclasses.replace(schema(PERSON), after="</think>")).rehearse()
    matcher = compiler.compile(wide(3000))
    with pytest.raises(InvalidRequest, match="too complex to follow"):
        matcher.rehearse()


def test_reasoning_that_is_left_out_leaves_the_grammar_in_force(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    """The first token decides: the begin mark, or the grammar's own beginning."""
    constraint = dataclasses.replace(after("</think>"), begin="<|im_start|>")
    direct, reasoned = (compiler.compile(constraint) for _ in range(2))
    assert allowed(direct.mask()) == allowed(reasoned.mask()) == {ord("{"), IM_START}
    write(direct, vocabulary, "{a")
    assert allowed(direct.mask()) == {ord("a"), ord("}")}
    write(direct, vocabulary, "}")
    assert direct.finished
    reasoned.accept(IM_START)
    assert allowed(reasoned.mask()) == set(range(VOCABULARY_SIZE)) - ENDS
    write(reasoned, vocabulary, "hm</think>")
    assert allowed(reasoned.mask()) == {ord("{")}


def test_a_mark_that_is_no_token_may_be_written_or_not(
    compiler: ConstraintCompiler, vocabulary: Vocabulary
) -> None:
    """Then nobody can tell from the first token: the answer is free up to the end mark."""
    matcher = compiler.compile(dataclasses.replace(after("</think>"), begin="<think>"))
    assert allowed(matcher.mask()) == set(range(VOCABULARY_SIZE)) - ENDS
