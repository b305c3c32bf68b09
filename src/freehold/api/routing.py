"""What the routes of every dialect begin with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from pydantic import BaseModel
from starlette.requests import Request

from freehold.domain.errors import InvalidRequest
from freehold.runtime.access.caller import current_caller
from freehold.runtime.wiring import Runtime

_STATUSES = (400, 401, 403, 404, 413, 415, 429, 500, 503)


def described_errors(shape: type[BaseModel]) -> dict[int | str, dict[str, type[BaseModel]]]:
    """For the description of a route: what it may answer besides, in its dialect's ``shape``."""
    return {status: {"model": shape} for status in _STATUSES}


def runtime_of(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def scope_of() -> str:
    """Whose prefixes, kept responses and conversations a request may share: its own key's."""
    return current_caller().id


def deadline_of(runtime: Runtime) -> float:
    """When a request that comes now must have begun to be answered, by the event loop's clock."""
    return asyncio.get_running_loop().time() + runtime.settings.deadline


@contextlib.contextmanager
def reworded(translate: Callable[[InvalidRequest], InvalidRequest]) -> Iterator[None]:
    """What strata below refuse, with the field as the caller knows it."""
    try:
        yield
    except InvalidRequest as error:
        raise translate(error) from error
