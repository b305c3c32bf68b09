"""`freehold ps`: the models in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, print_table, settings_from, size
from freehold.domain.durations import spelled


@click.command("ps")
@JSON_OPTION
def command(as_json: bool) -> None:
    """List the models in the memory of running servers, and how their upstreams are.

    MEASURED is the most that a model's process has taken; EXPECTED is what it was loaded for;
    PROFILE what `freehold tune` found and it runs with: its weights, the gain, the day.
    """
    from freehold.cli.servers import running

    with running(settings_from()) as servers:
        answers = {
            server.url: {
                **server.get("/freehold/v1/models/loaded"),
                **server.get("/freehold/v1/upstreams"),
            }
            for server in servers
        }
    if as_json:
        print_json([{"server": url, **answer} for url, answer in answers.items()])
        return
    _print_models(answers)
    _print_upstreams(answers)


def _print_models(answers: dict[str, dict[str, Any]]) -> None:
    rows = [(url, model) for url, answer in answers.items() for model in answer["models"]]
    if not rows:
        notice("No model is in memory. `freehold load NAME` loads one; so does the first request.")
        return
    now = datetime.now(UTC)
    several = len(answers) > 1
    print_table(
        ("NAME", "STATE", "MEASURED", "EXPECTED", "CONTEXT", "PROFILE", "USERS", "SINCE", "EXPIRES")
        + (("SERVER",) if several else ()),
        ((*_row(model, now), *((url,) if several else ())) for url, model in rows),
    )


def _print_upstreams(answers: dict[str, dict[str, Any]]) -> None:
    several = len(answers) > 1
    rows = [
        (
            *(model["model"], replica["host"], _health(model, replica)),
            *(str(replica["requests"]), str(replica["tokens"]), str(replica["ejections"])),
            *((url,) if several else ()),
        )
        for url, answer in answers.items()
        for model in answer["upstreams"]
        for replica in model["replicas"]
    ]
    if rows:
        print_table(
            ("UPSTREAM", "REPLICA", "STATE", "REQUESTS", "TOKENS", "EJECTIONS")
            + (("SERVER",) if several else ()),
            rows,
        )


def _health(model: dict[str, Any], replica: dict[str, Any]) -> str:
    return str(replica["state"]) if model["usable"] else "cannot be used"


def _row(model: dict[str, Any], now: datetime) -> tuple[str, ...]:
    memory, context = model["memory"], model["context"]
    measured = memory["measured_bytes"]
    return (
        model["model"],
        _state(model),
        size(measured) if measured is not None else "",
        size(memory["expected_bytes"]),
        str(context) if context is not None else "",
        _profile(model.get("profile")),
        str(model["users"]) + (f" (+{model['waiting']})" if model["waiting"] else ""),
        f"{spelled(_seconds(now, model['since']))} ago",
        _expires(model, now),
    )


def _profile(profile: dict[str, Any] | None) -> str:
    """As the server's own `freehold tune` found it; an older server tells nothing."""
    if profile is None:
        return ""
    weights = profile["quantisation"] or "settings"
    return f"{weights}, {profile['gain']:.2f}x, {profile['measured_at'][:10]}"


def _state(model: dict[str, Any]) -> str:
    share = "" if model["progress"] is None else f" {model['progress']:.0%}"
    stage = "" if model.get("stage") is None else f" ({model['stage']})"
    return f"{model['state']}{share}{stage}"


def _expires(model: dict[str, Any], now: datetime) -> str:
    if model["pinned"]:
        return "never (pinned)"
    if model["state"] != "ready":
        return ""
    if model["expires"] is None:
        return "when its room is needed"
    return f"in {spelled(max(-_seconds(now, model['expires']), 0))}"


def _seconds(now: datetime, then: str) -> float:
    return (now - datetime.fromisoformat(then)).total_seconds()
