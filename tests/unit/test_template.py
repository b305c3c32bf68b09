"""Chat templates: rendered as Hugging Face does, refused in sentences."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

import pytest

from freehold.domain.errors import TemplateFailed
from freehold.text import template
from freehold.text.template import MAX_OUTPUT_BYTES
from freehold.trust.template_syntax import MAX_CHARACTERS

HELLO = [{"role": "user", "content": "Hello"}]


def render(source: str, *contents: str, special_tokens: Mapping[str, str] | None = None) -> str:
    roles = ("user", "assistant")
    turns = [
        {"role": roles[number % 2], "content": content} for number, content in enumerate(contents)
    ]
    return template.render(
        source, {"messages": turns or HELLO}, special_tokens=special_tokens or {}
    )


def failure(source: str) -> str:
    with pytest.raises(TemplateFailed) as caught:
        render(source)
    return caught.value.message


def test_a_conversation() -> None:
    source = (
        "{%- for message in messages -%}[{{ message['role'] }}] {{ message.content }}\n"
        "{% endfor -%}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert render(source, "Hi", "Hello", "Bye") == (
        "[user] Hi\n[assistant] Hello\n[user] Bye\n[assistant] "
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if true %}\nx\n{% endif %}\ny", "x\ny"),  # trim_blocks
        ("   {% if true %}x{% endif %}", "x"),  # lstrip_blocks
        ("  {{ 1 }}\n  {{ 2 }}\n", "  1\n  2"),  # only around blocks; no last newline
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
         "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "013"),
        ("a{% generation %}b{{ 'c' }}{% endgeneration %}d", "abcd"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
         "{% endfor %}{{ ns.n }}", "1"),
        ("{{ tools is none }} {{ nothing is defined }} [{{ nothing }}]", "True False []"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0].content) }}", "<Hello>"),
        ("{{ messages[-1]['content'].strip().split('l')[0] }}", "He"),
        ("{{ '<b>&' }}", "<b>&"),
    ],
)  # fmt: skip
def test_what_templates_are_written_for(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('{{ "<é>&\'" | tojson }}', '"<é>&\'"'),
        ("{{ {'b': 1, 'a': [true, none]} | tojson }}", '{"b": 1, "a": [true, null]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
    ],
)
def test_tojson_escapes_nothing_it_need_not(source: str, text: str) -> None:
    assert render(source) == text


def test_special_tokens_are_variables() -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    assert render("{{ bos_token }}x{{ eos_token }}", special_tokens=tokens) == "<s>x</s>"


def test_the_date() -> None:
    shown = render("{{ strftime_now('%Y-%m-%d') }}")
    today = datetime.datetime.now().astimezone().date()
    assert datetime.date.fromisoformat(shown) in (today, today - datetime.timedelta(days=1))


def test_the_templates_own_refusal() -> None:
    message = failure("{{ raise_exception('Roles must alternate!') }}")
    assert message == "The model's chat template refuses these messages: Roles must alternate!"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% include 'secrets' %}", "the tag include"),
        ("{% import 'os' as os %}", "the tag import"),
        ("{% from 'os' import x %}", "the tag from"),
        ("{% extends 'base' %}", "the tag extends"),
        ("{{ ''.__class__.__mro__ }}", "the attribute __mro__"),
        ("{{ cycler.__init__.__globals__ }}", "the attribute __"),
        ("{{ x._hidden }}", "the attribute _hidden"),
        ("{{ ''['__class__'] }}", "the attribute __class__"),
        ("{{ ''|attr('__class__') }}", "the filter attr"),
        ("{{ [''] | map(attribute='__class__') | first }}", "the attribute __class__"),
        ("{{ [''] | map(attribute='x.__class__') | first }}", "the attribute x.__class__"),
        ("{{ '{0.__class__}'.format(1) }}", "the attribute {0.__class__}"),
        ("{{ 10 ** 9 }}", "the power operator"),
        ("{{ 'a' * 100000000 }}", "repeats something"),
        ("{{ 'a' * 9999 }}", "repeats something"),
        ("{{ 9999 * [0] }}", "repeats something"),
        ("{{ range(1000000000) }}", "a number above 1,000,000"),
        ("{{ 1e400 }}", "a number above 1,000,000"),
        ("{{ '{:>900000000}'.format(1) }}", "formats with {:>900000000}"),
        ("{{ '%1000000000d' % 1 }}", "formats with %1000000000d"),
        ("{{ '%*d' % (900000, 1) }}", "formats with %*d"),
        ("{{ '%.99999f' % 1 }}", "formats with %.99999f"),
        ("{{ 'a' | center(90000) }}", "pads with center"),
        ("{{ 'a' | indent(width=90000) }}", "pads with indent"),
        ("{{ 'a'.ljust(90000) }}", "pads with ljust"),
        ("{{ 'a' | xmlattr }}", "the filter xmlattr"),
        ("{{ 'a' | no_such_filter }}", "the filter no_such_filter"),
        ("{{ 'a' is escaped }}", "the test escaped"),
        ("{% autoescape true %}{% endautoescape %}", "the tag autoescape"),
        ("{% block x %}{% endblock %}", "the tag block"),
        ("\n\n{% if false %}{{ x.__class__ }}{% endif %}", "(line 3)"),
    ],
)
def test_what_no_template_needs_is_refused_before_anything_runs(source: str, problem: str) -> None:
    message = failure("{{ raise_exception('it ran') }}" + source)
    assert "may not do" in message
    assert problem in message


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 7 % 2 }} {{ 3 * 4 }} {{ 1000000 }}", "1 12 1000000"),
        ("{{ '    ' * 2 }}|{{ 'a' | indent(4) }}|{{ 'a' | center(3) }}", "        |a| a "),
        ("{{ '%d %s' % (1, 'x') }} {{ '{:>3}'.format(1) }} {{ '100%' }}", "1 x   1 100%"),
        ("{{ '2024-12-31' }} {{ {'_json': 1}['_json'] }}", "2024-12-31 1"),
    ],
)
def test_what_looks_like_it_and_is_ordinary_is_rendered(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages['app' ~ 'end'](1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
    ],
)
def test_what_the_sandbox_forbids(source: str) -> None:
    assert "may not do" in failure(source)


@pytest.mark.parametrize(
    "way",
    [
        "raise_exception['_' ~ '_globals_' ~ '_']",
        "('{0._' ~ '_class__}').format(1)",
        "(messages | first)['_' ~ '_class_' ~ '_']",
        "[''] | map(attribute='_' ~ '_class_' ~ '_') | first",
        "namespace(x=1)['_' ~ '_class_' ~ '_']",
    ],
)
def test_a_way_around_it_leads_nowhere(way: str) -> None:
    assert render(f"[{{{{ {way} }}}}]") == "[]"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content.upper() }}",
        "{{ 1 / 0 }}",
        "{{ 1 + 'a' }}",
        "{{ range(200000) | list }}",
        "{{ strftime_now(3) }}",
        "{{ cycler() }}",
        "{{ messages | tojson(indent='x', separators=3) }}",
        "{{ lipsum() }}",
        "{{ {}['a']['b'] }}",
        "{{ none.x.y }}",
        "{{ (messages | first)['_' ~ '_class_' ~ '_'].x }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ '%d' % 'x' }}",
    ],
)
def test_whatever_goes_wrong_is_a_sentence(source: str) -> None:
    assert failure(source).startswith("The model's chat template ")
    assert failure(source).endswith(".")


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ 'unclosed }}",
        "{% for x in y %}",
        "{{ x | from_json }}",
        "{% unknown %}",
        "{{ " + "9" * 5000 + " }}",
    ],
)
def test_no_template_at_all(source: str) -> None:
    assert "is not valid" in failure(source)


def test_the_line_of_a_mistake_is_told() -> None:
    assert re.search(r"\(line 3\)", failure("a\nb\n{% if %}"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 6000 + "1" + ")" * 6000 + " }}",
        "{% if 1 %}" * 3000 + "{%endif%}" * 3000,
        "{{ " + "(x+" * 250 + "1" + ")" * 250 + " }}",
        "{{ " + "1+" * 30_000 + "1 }}",
        "{{ x" + ".a" * 30_000 + " }}",
        "{% for a in messages %}" * 25 + "x" + "{% endfor %}" * 25,
    ],
    ids=["parentheses", "ifs", "python's parentheses", "a sum", "a path", "python's loops"],
)
def test_too_deep(source: str) -> None:
    assert "nested too deeply" in failure(source)


def test_too_long_a_template() -> None:
    assert str(MAX_CHARACTERS) in failure("x" * (MAX_CHARACTERS + 1))


def test_too_long_an_output() -> None:
    assert str(MAX_OUTPUT_BYTES) in failure(
        f"{{{{ 'x' * (1024 * {MAX_OUTPUT_BYTES // 1024} + 1) }}}}"
    )
    endless = "{% for i in range(99999) %}" + "€" * 100 + "{% endfor %}"
    assert str(MAX_OUTPUT_BYTES) in failure(endless)


def test_half_a_character_is_replaced() -> None:
    assert render("a{{ '\\ud800' }}b") == "a?b"
