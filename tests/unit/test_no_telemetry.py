"""Nothing that is installed with freehold phones home: its locked dependencies, by name."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from freehold.process.child import child_environment

LOCK = Path(__file__).parents[2] / "uv.lock"

# Products that count, trace or report on users, as they are called in package names.
DENIED = (
    *("posthog*", "analytics-python", "segment-*", "sentry-*", "raven", "mixpanel*", "amplitude*"),
    *("scarf*", "rudder*", "snowplow*", "statsd*", "datadog*", "ddtrace", "newrelic*", "bugsnag*"),
    *("rollbar*", "honeycomb*", "langsmith", "langfuse*", "wandb*", "comet-*", "mlflow*"),
    *(
        "google-analytics*",
        "plausible*",
        "matomo*",
        "launchdarkly*",
        "statsig*",
        "applicationinsights",
    ),
    # The API alone sends nothing: it needs one of these.
    *("opentelemetry-sdk", "opentelemetry-exporter-*", "opentelemetry-distro", "logfire*"),
    "azure-monitor-*",
)


def packages() -> Mapping[str, Any]:
    found = tomllib.loads(LOCK.read_text())["package"]
    return {package["name"]: package for package in found}


def closure(known: Mapping[str, Any], roots: Sequence[str]) -> set[str]:
    """Everything that is installed with these, on any system, with every extra of theirs."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        package = known[name]
        groups = [
            package.get("dependencies", []),
            *package.get("optional-dependencies", {}).values(),
        ]
        waiting += [item["name"] for group in groups for item in group]
    return found


def denied(names: set[str]) -> list[str]:
    return sorted(
        name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in DENIED)
    )


def test_no_dependency_phones_home() -> None:
    names = closure(packages(), ["freehold"])
    assert names >= {"click", "huggingface-hub", "llama-cpp-python", "httpx2", "idna"}
    assert denied(names) == []


def test_the_list_catches_what_only_tests_install() -> None:
    """A test's client brings one along, so the walk would see one of ours."""
    assert denied(closure(packages(), ["langchain-openai"])) == ["langsmith"]


def test_nothing_outside_the_index() -> None:
    known = packages()
    for name in closure(known, ["freehold"]) - {"freehold"}:
        assert known[name]["source"].keys() == {"registry"}, name


@pytest.mark.parametrize(
    "variable",
    [
        *("DO_NOT_TRACK", "DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"),
        *("HF_HUB_DISABLE_UPDATE_CHECK", "HF_HUB_DISABLE_IMPLICIT_TOKEN"),
        *("TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS"),
    ],
)
def test_children_are_told_to_be_quiet_whatever_we_were_told(variable: str) -> None:
    assert child_environment({})[variable] == "1"
    assert child_environment({variable: "0"})[variable] == "1"
