"""`/docs`: the OpenAPI description as one page of plain HTML. Pure.

Nothing is loaded from elsewhere, not even a script: FastAPI's own page would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code { font-family: ui-monospace, monospace; font-size: 0.9em }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 1.5rem }
td, th { text-align: left; vertical-align: top; padding: 0.3rem 0.6rem }
tr { border-top: 1px solid #8886 }
h2 { margin-top: 3rem } h3 { margin-top: 2rem }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8bf } }
"""


def page(description: Json) -> str:
    """The whole page for an OpenAPI description."""
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    routes = [
        (path, method, operation)
        for path, operations in sorted(description["paths"].items())
        for method, operation in operations.items()
    ]
    schemas = description.get("components", {}).get("schemas", {})
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
            '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>.</p><ul>',
            *(_entry(path, method) for path, method, _ in routes),
            "</ul><h2>Routes</h2>",
            *(_route(path, method, operation) for path, method, operation in routes),
            "<h2>Objects</h2>",
            *(_schema(name, schema) for name, schema in sorted(schemas.items())),
            "</body></html>\n",
        ]
    )


def _anchor(path: str, method: str) -> str:
    return escape(f"{method}{path}".replace("/", "-").replace("{", "").replace("}", ""))


def _entry(path: str, method: str) -> str:
    name = f"{method.upper()} {escape(path)}"
    return f'<li><a href="#{_anchor(path, method)}"><code>{name}</code></a></li>'


def _route(path: str, method: str, operation: Json) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    asked = ", ".join(_type(content.get("schema", {})) for content in body.values())
    answers = _rows(
        (status, _answer(answer)) for status, answer in sorted(operation["responses"].items())
    )
    parameters = _rows(
        (parameter["name"], _type(parameter.get("schema", {})))
        for parameter in operation.get("parameters", ())
    )
    return "".join(
        [
            f'<h3 id="{_anchor(path, method)}"><code>{method.upper()} {escape(path)}</code></h3>',
            f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
            f"<p>Body: {asked}</p>" if asked else "",
            f"<table>{parameters}{answers}</table>",
        ]
    )


def _answer(answer: Json) -> str:
    kinds = [
        f"{_type(content.get('schema', {}))} <code>{escape(kind)}</code>"
        for kind, content in answer.get("content", {}).items()
    ]
    return "; ".join([escape(answer.get("description", "")), *kinds])


def _schema(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    fields = _rows(
        (
            field if field not in required else f"{field} (required)",
            f"{_type(kind)} {escape(kind.get('description', ''))}",
        )
        for field, kind in schema.get("properties", {}).items()
    )
    text = f"<p>{escape(schema['description'])}</p>" if "description" in schema else ""
    simple = "" if fields else f"<p>{_type(schema)}</p>"
    heading = f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3>'
    return f"{heading}{text}{simple}<table>{fields}</table>"


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"<tr><td><code>{escape(left)}</code></td><td>{right}</td></tr>" for left, right in pairs
    )


_BOUNDS = (
    *(("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")),
    *(("minLength", "length ≥"), ("maxLength", "length ≤"), ("minItems", "items ≥")),
    *(("maxItems", "items ≤"), ("maxProperties", "keys ≤"), ("pattern", "matches")),
)


def _type(schema: Json) -> str:
    """A type in words, with links to objects and with its bounds."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(_type(option) for option in options)
    if "const" in schema:
        return f"<code>{escape(repr(schema['const']))}</code>"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(repr(value))}</code>" for value in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        kind = f"object of {_type(schema['additionalProperties'])}"
    bounds = [f"{words} {_bound(schema[key])}" for key, words in _BOUNDS if key in schema]
    return ", ".join([kind, *bounds])


def _bound(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return escape(str(value))
