"""`/freehold/v1/keys`: issuing, listing and revoking API keys, and what each has used."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path as Folder
from typing import Annotated, TypeVar

from fastapi import APIRouter, Path, Query, Request

from freehold.api.admin import keys_convert as convert
from freehold.api.admin.keys_schema import KeyDescribed, KeyIssued, KeyList, NewKey, UsageList
from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import described_errors, runtime_of
from freehold.runtime.access.key_file import KeyFile, totals
from freehold.runtime.access.keys import ENVIRONMENT

router = APIRouter(prefix="/freehold/v1/keys")

T = TypeVar("T")
_ERRORS = described_errors(ErrorResponse)
_Name = Annotated[str, Path(max_length=64)]


async def _with_file(request: Request, work: Callable[[KeyFile], T]) -> T:
    return await asyncio.to_thread(_work, runtime_of(request).settings.home, work)


def _work(home: Folder, work: Callable[[KeyFile], T]) -> T:
    with contextlib.closing(KeyFile.open(home)) as file:
        return work(file)


@router.post("", responses=_ERRORS)
async def create_key(body: NewKey, request: Request) -> KeyIssued:
    """Issue a key. It is told this once, and cannot be found again."""
    now = time.time()
    made = convert.issued(body, now)
    await _with_file(request, lambda file: file.add(made.key))
    return convert.told_once(made, now)


@router.get("", responses=_ERRORS)
async def list_keys(request: Request) -> KeyList:
    """All that were ever issued here, the oldest first."""
    now = time.time()
    keys = await _with_file(request, KeyFile.all)
    return KeyList(data=[convert.described(key, now) for key in keys])


@router.delete("/{name}", responses=_ERRORS)
async def revoke_key(name: _Name, request: Request) -> KeyDescribed:
    """Revoke a key: from now on it opens nothing. Answers under way are finished."""
    now = time.time()
    key = await _with_file(request, lambda file: file.revoke(name, now))
    return convert.described(key, now)


@router.get("/usage", responses=_ERRORS)
async def key_usage(request: Request, days: Annotated[int, Query(ge=1, le=3660)] = 30) -> UsageList:
    """What each key has used in the last days (UTC)."""
    await runtime_of(request).keyring.flush()
    since = (datetime.now(UTC) - timedelta(days=days - 1)).date().isoformat()
    keys, uses = await _with_file(request, lambda file: (file.all(), file.usage(since)))
    names = {key.id: key.name for key in keys} | {ENVIRONMENT: ENVIRONMENT}
    return UsageList(data=[convert.used(names, use) for use in totals(uses, since)])
