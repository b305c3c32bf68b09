"""Rendering a model's chat template as Hugging Face's tokenizers do, in a sandbox.

A template comes with the weights and is a program by a stranger. Before anything of it
runs its syntax tree is checked (`freehold.trust.template_syntax`). It is rendered
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
import jinja2.sandbox

from freehold.domain.errors import TemplateFailed
from freehold.trust.template_syntax import EXTENSIONS, parsed, refusals

_NOT_THIS_MODEL = "Do not use this model, or tell whoever published it."
# With its token ids, at most five bytes each, this always fits into a frame.
MAX_OUTPUT_BYTES = 4 * 1024 * 1024


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
        extensions=EXTENSIONS,
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
    environment = _environment()
    tree = parsed(source, environment.parse)
    for finding in refusals(tree):
        raise TemplateFailed(
            f"The model's chat template holds something a template may not do: {finding.what} "
            f"(line {finding.line}).",
            hint=_NOT_THIS_MODEL,
        )
    try:
        return environment.from_string(tree)
    except jinja2.TemplateSyntaxError as error:  # of filters and tests that are none
        raise TemplateFailed(
            f"The model's chat template is not valid: {error.message} (line {error.lineno})."
        ) from error
    except (RecursionError, SyntaxError) as error:  # Jinja's limits, then Python's
        raise TemplateFailed("The model's chat template is nested too deeply.") from error
    except (ValueError, OverflowError) as error:
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
            hint=_NOT_THIS_MODEL,
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
