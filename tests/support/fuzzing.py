"""What schemathesis loads beside our description of the API: see its ``SCHEMATHESIS_HOOKS``.

What it makes up would hardly ever reach an engine: names of models, token ids. They are replaced
by some that are there. It hardly ever asks for a stream: every other time it is made to. What
became of each request is written to a file.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import schemathesis

from tests.support.routes import ANSWERING

MODEL = "tiny"
OUTCOMES = "FREEHOLD_TEST_OUTCOMES"  # the variable that names the file
_TOKENS = 256
_STREAMED = itertools.cycle((True, False))


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str) and body["model"]:
        # Measuring would keep the machine busy for minutes: there, no model is found.
        body["model"] = MODEL if case.operation.path != "/freehold/v1/tuning" else "no-such-model"
    if case.operation.path in ANSWERING and "stream" not in body:
        body["stream"] = next(_STREAMED)
    for field in ("prompt", "input", "tokens"):
        if field in body:
            body[field] = _known_tokens(body[field])


def _known_tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_known_tokens(item) for item in value]
    return value % _TOKENS if type(value) is int and value >= 0 else value


@schemathesis.hook
def after_call(_: Any, case: Any, response: Any) -> None:
    with Path(os.environ[OUTCOMES]).open("a") as file:
        file.write(f"{case.operation.path} {response.status_code}\n")
