"""Rendering a model's chat template as Hugging Face's tokenizers do, in a sandbox.

A template comes with the weights and is a program by a stranger. It is rendered
in Jinja's immutable sandbox, without a loader, with the same extensions, filters and
globals templates are written for, inside the text child (see `child` for the limits of
time and memory, which no sandbox gives).
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from freehold.domain.errors import TemplateFailed

MAX_TEMPLATE_CHARACTERS = 256 * 1024
# With its token ids, at most five bytes each, this always fits into a frame.
MAX_OUTPUT_BYTES = 4 * 1024 * 1024


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _TemplateSays(Exception):
    """The template called ``raise_exception``."""


def _raise_exception(message: object) -> NoReturn:
    raise _TemplateSays(str(message))


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, >, & and '; templates expect them as they are.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@functools.cache
def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=["jinja2.ext.loopcontrols", _GenerationTag],
    )
    environment.filters["tojson"] = _tojson
    environment.globals = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "range": environment.globals["range"],
        "namespace": environment.globals["namespace"],
        "dict": environment.globals["dict"],
        "cycler": environment.globals["cycler"],
        "joiner": environment.globals["joiner"],
    }
    return environment


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateFailed(
            f"The model's chat template has {len(source)} characters; at most "
            f"{MAX_TEMPLATE_CHARACTERS} are accepted."
        )
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailed(
            f"The model's chat template is not valid: {error.message} (line {error.lineno})."
        ) from error
    except (RecursionError, SyntaxError) as error:  # Jinja's limits, then Python's
        raise TemplateFailed("The model's chat template is nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # a number of 5,000 digits, say
        raise TemplateFailed(f"The model's chat template is not valid: {error}.") from error


def render(
    source: str,
    variables: Mapping[str, Any],
    *,
    special_tokens: Mapping[str, str],
    generation_prompt: bool = True,
) -> str:
    """The prompt for the conversation in ``variables``, ready for the assistant's turn.

    ``special_tokens`` are the template's variables such as ``bos_token``. Raises
    `TemplateFailed`, with the template's own words where it has some.
    """
    template = _compiled(source)
    pieces: list[str] = []
    length = 0
    try:
        stream = template.generate(
            {"tools": None, **special_tokens, **variables},
            add_generation_prompt=generation_prompt,
        )
        for piece in stream:
            whole = piece.encode("utf-8", "replace")  # a template can write half a character
            length += len(whole)
            if length > MAX_OUTPUT_BYTES:
                raise TemplateFailed(
                    f"The model's chat template wrote more than {MAX_OUTPUT_BYTES} bytes."
                )
            pieces.append(whole.decode())
    except _TemplateSays as error:
        raise TemplateFailed(
            f"The model's chat template refuses these messages: {error}",
            hint="Many templates want turns that alternate, or allow no system message.",
        ) from error
    except jinja2.exceptions.SecurityError as error:
        raise TemplateFailed(
            f"The model's chat template tried something a template may not do: {error}.",
            hint="Do not use this model, or tell whoever published it.",
        ) from error
    except MemoryError:
        raise TemplateFailed("The model's chat template used too much memory.") from None
    except RecursionError:
        raise TemplateFailed("The model's chat template recurses too deeply.") from None
    except (
        jinja2.TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:  # whatever a stranger's program can raise by itself
        raise TemplateFailed(f"The model's chat template failed: {error}.") from error
    return "".join(pieces)
