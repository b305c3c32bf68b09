"""What errors are about, by name, for programs and for pages in other languages.

An error has a sentence in English; beside it stand values such as the model or the bytes that are
missing. They are names, sizes and limits: never text of a prompt or an answer. More may be added;
none is in every error of its code.
"""

from __future__ import annotations

from collections.abc import Mapping

Value = str | int | float | tuple[str, ...]
Values = Mapping[str, Value]

# Which values an error of each code can have. Codes that are not here have none, save
# ``retry_after`` (seconds) where there is a `Retry-After`.
CARRIED: Mapping[str, tuple[str, ...]] = {
    "body_too_large": ("most_bytes",),
    "cannot_resume": ("host",),
    "context_length_exceeded": (
        *("prompt_tokens", "requested_tokens", "context_tokens"),
        "upstream",
    ),
    "conversation_not_found": ("id",),
    "deadline_exceeded": ("model", "beside", "running", "waiting"),
    "digest_mismatch": ("file", "expected", "actual"),
    "disk_full": ("needed_bytes", "free_bytes"),
    "engine_crashed": ("model",),
    "forbidden": ("key", "scopes"),
    "gated_model": ("repository", "host"),
    "invalid_field": ("field", "least", "above", "most", "below", "longest"),
    "invalid_model_file": ("file",),
    "invalid_reference": ("reference", "repository", "choices"),
    "invalid_request": ("field", "most", "model"),
    "invalid_setting": ("field", "key", "least", "most"),
    "licence_refused": ("model", "use", "outcome", "rule"),
    "limited": ("retry_after",),
    "load_failed": ("model", "needed_bytes", "free_bytes", "pinned"),
    "missing_field": ("field",),
    "model_not_fetchable": ("model", "release"),
    "model_not_found": ("model", "near"),
    "model_not_pulled": ("model",),
    "offline": ("model", "host", "upstream"),
    "poison_request": ("model",),
    "pull_not_found": ("model",),
    "queue_full": ("waiting", "retry_after"),
    "rate_limit_exceeded": ("key", "most", "retry_after"),
    "request_not_found": ("id",),
    "source_unavailable": ("host", "file", "status"),
    "store_busy": ("model",),
    "too_many_at_once": ("key", "most", "retry_after"),
    "too_many_pulls": ("most",),
    "unavailable": ("model", "most"),
    "unknown_field": ("field",),
    "unknown_key": ("key",),
    "unsupported_file": ("file", "repository"),
    "upstream_failed": ("upstream", "status"),
    "upstream_limited": ("upstream", "retry_after"),
    "upstream_unavailable": ("upstream", "retry_after"),
}


def as_data(values: Values) -> dict[str, str | int | float | list[str]]:
    """For JSON."""
    return {n: list(value) if isinstance(value, tuple) else value for n, value in values.items()}


def known(values: Mapping[str, Value | None] | None, **more: Value | None) -> Values:
    """Those that are known, of both."""
    return {name: value for name, value in {**(values or {}), **more}.items() if value is not None}
