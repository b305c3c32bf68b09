"""API keys: what they are, what is stored of them, and how a running server sees them change."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.errors import InvalidSetting, Unavailable
from freehold.runtime.access import keys
from freehold.runtime.access.caller import (
    NOBODY,
    OWNER,
    Caller,
    Scope,
    Terms,
    calling,
    current_caller,
    may_see,
)
from freehold.runtime.access.key_file import KeyFile, UnknownKey, Use, any_holds, path_in
from freehold.runtime.access.keyring import Keyring, today
from freehold.runtime.access.rate import Bucket
from tests.support.running import run

LIMITED = Terms(
    scopes=frozenset({Scope.INFER}), models=("qwen*",), concurrency=2, rate=1000, weight=3
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[KeyFile]:
    with contextlib.closing(KeyFile.open(tmp_path)) as opened:
        yield opened


def test_a_key_is_random_and_nothing_stored_contains_it() -> None:
    one, other = (keys.issue("ann", LIMITED, now=5.0) for _ in range(2))
    assert re.fullmatch(r"fh_[0-9a-f]{12}_[0-9a-f]{48}", one.text)
    assert one.text[16:] != other.text[16:]
    assert keys.id_of(one.text) == one.key.id
    assert keys.matches(one.text, one.key.digest)
    assert not keys.matches(other.text, one.key.digest)
    assert one.text[16:] not in repr(one.key)
    assert one.text[16:].encode() not in one.key.digest


@given(st.text())
def test_what_is_no_key_of_ours_has_no_id(text: str) -> None:
    found = keys.id_of(text)
    assert found is None or re.fullmatch(r"fh_[0-9a-f]{12}_[0-9a-f]{48}", text)
    assert not keys.matches(text, keys.digest_of(text + "x"))


@pytest.mark.parametrize("name", ["", "environment", "local", "nobody", "a b", "-a", "a" * 65, "é"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(InvalidSetting):
        keys.issue(name, Terms(), now=0)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(scopes=frozenset()),
        Terms(models=("qwen*",)),  # with manage
        Terms(scopes=frozenset({Scope.INFER}), models=("",)),
        Terms(scopes=frozenset({Scope.INFER}), models=("a\n",)),
        Terms(scopes=frozenset({Scope.INFER}), models=("m",) * 65),
        Terms(concurrency=0),
        Terms(rate=0),
        Terms(weight=0),
        Terms(weight=10_000),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: Terms) -> None:
    with pytest.raises(InvalidSetting):
        keys.issue("ann", terms, now=0)


def test_a_key_holds_until_it_expires_or_is_revoked() -> None:
    key = keys.issue("ann", Terms(), now=10, expires=20).key
    assert key.holds(19.9)
    assert not key.holds(20)
    with pytest.raises(InvalidSetting, match="expired"):
        keys.issue("ann", Terms(), now=10, expires=10)


def test_models_are_allowed_by_pattern() -> None:
    assert LIMITED.allow("qwen3:4b")
    assert not LIMITED.allow("Qwen3:4b")
    assert not LIMITED.allow("llama")
    assert Terms().allow("anything")
    assert not NOBODY.terms.allow("anything")


def test_tasks_and_threads_begun_for_a_caller_are_the_callers() -> None:
    async def seen() -> tuple[str, str, bool]:
        with calling(Caller("1", "ann", LIMITED)):
            task = asyncio.create_task(asyncio.to_thread(current_caller))
        return (await task).name, current_caller().name, may_see("llama")

    assert run(seen()) == ("ann", OWNER.name, True)


# The file


def test_what_is_added_is_found(file: KeyFile) -> None:
    key = keys.issue("ann", LIMITED, now=1.5, expires=9e9).key
    file.add(key)
    assert file.all() == (key,)


def test_nobody_else_may_read_the_file(file: KeyFile, tmp_path: Path) -> None:
    file.add(keys.issue("ann", Terms(), now=1).key)
    for path in path_in(tmp_path).parent.glob("keys.sqlite*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_a_name_is_free_again_once_its_key_is_revoked(file: KeyFile) -> None:
    first = keys.issue("ann", Terms(), now=1).key
    file.add(first)
    with pytest.raises(InvalidSetting, match="in use"):
        file.add(keys.issue("ann", Terms(), now=2).key)
    assert file.revoke("ann", 3).revoked == 3
    with pytest.raises(UnknownKey):
        file.revoke("ann", 4)
    second = keys.issue("ann", Terms(), now=5).key
    file.add(second)
    assert [key.holds(6) for key in file.all()] == [False, True]


def test_usage_adds_up_by_day(file: KeyFile) -> None:
    file.spend([Use("k", "2026-01-01", 1, 10, 4, 5), Use("k", "2026-01-02", 1, 1, 0, 1)])
    file.spend([Use("k", "2026-01-01", 2, 20, 0, 7)])
    assert file.usage() == (
        Use("k", "2026-01-01", 3, 30, 4, 12),
        Use("k", "2026-01-02", 1, 1, 0, 1),
    )
    assert len(file.usage("2026-01-02")) == 1


def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    path_in(tmp_path).parent.mkdir()
    path_in(tmp_path).write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match=r"keys\.sqlite"):
        KeyFile.open(tmp_path)
    path_in(tmp_path).unlink()
    KeyFile.open(tmp_path).close()
    with contextlib.closing(sqlite3.connect(path_in(tmp_path))) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Unavailable, match="newer"):
        KeyFile.open(tmp_path)


def test_looking_for_keys_makes_no_file(tmp_path: Path) -> None:
    assert not any_holds(tmp_path)
    assert not path_in(tmp_path).exists()


# A running server's keys


def test_a_key_of_the_environment_may_everything(tmp_path: Path) -> None:
    async def found(shown: str) -> Caller | None:
        return await Keyring(tmp_path, "secret").find([shown])

    known = run(found(" secret "))
    assert known is not None
    assert known.name == "environment"
    assert all(known.may(scope) for scope in Scope)
    assert run(found("secreT")) is None
    assert run(found("")) is None


def test_keys_made_revoked_and_expired_elsewhere_are_seen_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        ring = Keyring(tmp_path, None)
        async with ring.kept():
            issued = keys.issue("ann", LIMITED, now=time.time())
            assert await ring.find([issued.text]) is None
            with contextlib.closing(KeyFile.open(tmp_path)) as file:
                file.add(issued.key)
                caller = await ring.find(["wrong", issued.text])
                assert caller == issued.key.caller
                assert await ring.find([issued.text[:-1] + "x"]) is None
                assert await ring.holds(caller)
                file.revoke("ann", time.time())
                assert await ring.find([issued.text]) is None
                assert not await ring.holds(caller)
                short = keys.issue("bob", Terms(), now=time.time() - 60, expires=time.time() - 30)
                file.add(short.key)
                assert await ring.find([short.text]) is None

    run(story())


def test_a_file_put_in_its_place_is_read_anew(tmp_path: Path) -> None:
    async def story() -> None:
        ring = Keyring(tmp_path, None)
        async with ring.kept():
            issued = keys.issue("ann", Terms(), now=time.time())
            with contextlib.closing(KeyFile.open(tmp_path)) as file:
                file.add(issued.key)
            assert await ring.find([issued.text]) is not None
            for path in path_in(tmp_path).parent.glob("keys.sqlite*"):
                path.unlink()
            assert await ring.find([issued.text]) is None
            other = keys.issue("ann", Terms(), now=time.time())
            with contextlib.closing(KeyFile.open(tmp_path)) as file:
                file.add(other.key)
            assert await ring.find([other.text]) is not None

    run(story())


def test_usage_is_written_at_the_end_and_survives_a_file_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ann = Caller("a1", "ann")

    async def story() -> None:
        ring = Keyring(tmp_path, None)
        async with ring.kept():
            ring.spend(OWNER, requests=1, prompt_tokens=100)
            ring.spend(ann, requests=1)
            ring.spend(ann, prompt_tokens=10, cached_tokens=2, completion_tokens=5)
            path_in(tmp_path).parent.mkdir()
            path_in(tmp_path).mkdir()  # in the way
            await ring.flush()
            await ring.flush()
            path_in(tmp_path).rmdir()

    run(story())
    with contextlib.closing(KeyFile.open(tmp_path)) as file:
        assert file.usage() == (Use("a1", today(), 1, 10, 2, 5),)
    told = [record.getMessage() for record in caplog.records if "usage" in record.getMessage()]
    assert len(told) == 2  # once that it fails, once that it works again


def test_a_locked_file_stops_no_answer(tmp_path: Path) -> None:
    async def story() -> None:
        ring = Keyring(tmp_path, None)
        async with ring.kept():
            issued = keys.issue("ann", Terms(), now=time.time())
            with contextlib.closing(KeyFile.open(tmp_path)) as file:
                file.add(issued.key)
            with contextlib.closing(sqlite3.connect(path_in(tmp_path))) as other:
                other.execute("BEGIN EXCLUSIVE")
                began = time.monotonic()
                assert await ring.find([issued.text]) is not None
                assert time.monotonic() - began < 1
                other.rollback()

    run(story())


# Token rates

_Steps = st.lists(st.tuples(st.floats(0, 120), st.integers(1, 5000)), min_size=1, max_size=60)


@given(st.integers(1, 100_000), _Steps)
def test_nobody_takes_more_than_the_rate_and_what_was_under_way(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    """A caller with one request at a time, who comes as early as it may."""
    now, bucket, taken, last = 0.0, Bucket.full(rate, 0.0), 0, 0
    for pause, tokens in steps:
        now += pause
        now += bucket.wait(now)
        assert bucket.wait(now) < 1e-6
        bucket.take(tokens, now)
        taken, last = taken + tokens, tokens
        assert taken - last <= rate * (now / 60 + 1) + 1e-3
    assert bucket.level <= rate


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_another_rate_keeps_what_is_owed(before: int, after: int) -> None:
    bucket = Bucket.full(before, 0.0)
    bucket.take(before + 50, 0.0)
    bucket.change(after, 0.0)
    assert bucket.level == -50
    assert bucket.wait(0.0) == pytest.approx(51 * 60 / after)
