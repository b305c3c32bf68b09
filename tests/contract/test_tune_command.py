"""`freehold tune`, and what `run` and `show` make of the profile it leaves, on a tiny model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from freehold.domain.engine import CacheConfig, Kernels
from freehold.domain.errors import DiskFull, EngineError
from freehold.domain.settings import resolve
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.tuning_client import compare, quantise
from freehold.engines.llamacpp.tuning_messages import Compare, Window
from freehold.lab.tune import corpus, grid
from freehold.lab.tune.derive import Derivation
from freehold.lab.tune.grid import Candidate
from freehold.lab.tune.journal import Circumstances, Timing, opened
from freehold.lab.tune.loss import summarise
from freehold.lab.tune.timing import settings_of
from freehold.machine.probe import probe
from freehold.machine.profile import EngineSettings, Loss, Profile, Speeds
from freehold.process.kernel import this_machine
from freehold.runtime.profiles import Here, Profiles
from freehold.runtime.wiring import engine_config
from freehold.weights.files import hash_file
from freehold.weights.gguf import read_header
from freehold.weights.housekeeping import Litter, survey
from freehold.weights.library import Library, LocalModel
from tests.support.command import FREEHOLD, environment, freehold

NATIVE = pytest.mark.native
SETTINGS = EngineSettings(CacheConfig(flash_attention=True), threads=1, micro_batch=128)
SPEED = Speeds(1, 1, 1, 1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def opened_library(home: Path, tiny: Path) -> tuple[Library, LocalModel]:
    library = Library.open(resolve({"home": str(home)}, environ={}))
    return library, library.local(str(tiny))


def profile_of(home: Path, model: LocalModel, weights: str | None = None) -> Profile:
    here = Here.now(home)
    return Profile(
        source=model.digest,
        weights=weights or model.digest,
        computer=here.computer,
        build=here.build,
        measured_at="2026-11-24T12:00:00+00:00",
        version="0",
        settings=SETTINGS,
        depth=64,
        users=1,
        before=SPEED,
        after=SPEED,
        quantisation=None if weights is None else "Q8_0",
        loss=None if weights is None else Loss(100, 0.011, 0.001, 0.97, 0.01, 9, 9.1, 0.01),
    )


# Asked wrongly


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--formats", "q8_0,zip"), "ZIP"),
        (("--depth", "100000"), "trained for 512 tokens"),
        (("--formats", ","), "no format"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    home: Path, tiny: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = freehold(home, "tune", str(tiny), *arguments)
    assert result.status == 2
    assert told in result.err
    assert result.out == ""


def test_a_model_that_is_not_here_is_not_fetched(home: Path) -> None:
    assert freehold(home, "tune", "qwen2.5-coder:0.5b").status == 3


# A search


def search_that_was_stopped(home: Path, tiny: Path) -> Candidate:
    """Before its final; returns the candidate that had been the fastest."""
    settings = resolve({"home": str(home), "threads": 1}, environ={})
    library = Library.open(settings)
    model = library.local(str(tiny))
    here, processor = Here.now(home), probe(home, {}).processor
    baseline = Candidate(None, settings_of(engine_config(settings, model, Kernels.FAST)))
    tried = grid.caches_and_kernels(baseline.settings, processor, fast_kernels=True)
    leader = tried[1]
    tried += grid.micro_batches_and_threads([leader], processor)
    circumstances = Circumstances(
        *(model.digest, here.computer, here.build, version("freehold"), baseline), 256, 1
    )
    with opened(home, circumstances) as journal:
        for candidate in dict.fromkeys(tried):
            speed = 90.0 if candidate == leader else 80.0
            journal.add(Timing(candidate, 0, 64, Speeds(speed, speed, speed, speed)))
    return leader


@NATIVE
def test_a_search_goes_on_where_it_was_stopped_and_ends_with_a_profile(
    home: Path, tiny: Path
) -> None:
    leader = search_that_was_stopped(home, tiny)
    result = freehold(
        home,
        *("tune", str(tiny), "--depth", "256", "--users", "1", "--minutes", "0.1"),
        *("--formats", "none", "--json"),
        extra={"FREEHOLD_THREADS": "1"},
    )
    assert result.status == 0, result.err
    assert "Going on where the last search was stopped." in result.err
    library, model = opened_library(home, tiny)
    profile = Profiles(home).get(model.digest)
    assert profile is not None
    assert result.json["profile"] == msgspec.to_builtins(profile)
    told: list[dict[str, Any]] = [result.json["baseline"], *result.json["points"]]
    assert sum(point["chosen"] for point in told) == 1
    assert told[1]["settings"] == msgspec.to_builtins(leader.settings)
    for point in told:
        assert point["weights"] is None
        assert point["tokens_per_second"]["prefill"] > 100  # measured now, not what was kept
        if point["chosen"] and point is not told[0]:
            assert point["admissible"]
            assert point["gain"] > 1
    assert library.store.blobs() == ()
    assert not list((home / "state" / "tuning").glob("*.json"))


@NATIVE
def test_an_interrupted_search_keeps_what_it_has(home: Path, tiny: Path) -> None:
    process = subprocess.Popen(
        [FREEHOLD, "tune", str(tiny), "--depth", "64", "--formats", "none"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    journal = home / "state" / "tuning"
    while not list(journal.glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert f"freehold tune {tiny}" in err
    (kept,) = journal.glob("*.json")
    assert json.loads(kept.read_bytes())["timings"]


@NATIVE
def test_a_model_is_compared_with_itself_and_with_another_format(tiny: Path, home: Path) -> None:
    library, model = opened_library(home, tiny)
    made = asyncio.run(Derivation(library, model).make("Q4_0", 2)).files[0].sha256

    async def windows() -> list[Window]:
        def config(path: Path) -> EngineConfig:
            return EngineConfig("tiny", (str(path),), 320, 1, 2)

        others = (config(tiny), config(library.store.blob_path(made)))
        order = Compare(config(tiny), others, corpus.text(), windows=2, before=64, scored=256)
        return [window async for window in compare(order)]

    read = asyncio.run(windows())
    assert [window.last for window in read] == [False, True]
    for same, other in (window.differences for window in read):
        assert same.tokens == other.tokens == same.agreed == 256
        assert same.divergence == 0
        assert same.source_loss == same.other_loss == other.source_loss
        assert other.divergence > 0
    loss = summarise([window.differences[1] for window in read])
    assert loss.tokens == 512
    assert loss.divergence_error < loss.divergence


# Weights made here


@NATIVE
def test_weights_made_here_are_linked_to_their_parent_and_can_be_deleted(
    home: Path, tiny: Path
) -> None:
    library, model = opened_library(home, tiny)
    derivation = Derivation(library, model)
    manifest = asyncio.run(derivation.make("Q8_0", 2))
    assert manifest.derived_from == model.digest
    path = library.store.verify(manifest.files[0].sha256)
    assert read_header(path).quantisation == "Q8_0"
    assert hash_file(path) == manifest.files[0].sha256
    assert derivation.known("Q8_0") == asyncio.run(derivation.make("Q8_0", 2))
    assert [item.name for item in survey(library.store, [Litter.DERIVED])] == [manifest.reference]
    assert library.registry.models() == ()
    assert derivation.forget_all_but(manifest.files[0].sha256) == 0
    assert derivation.forget_all_but(model.digest) == manifest.size
    assert library.store.blobs() == ()


@NATIVE
def test_an_imported_model_passes_its_papers_on(home: Path, tiny: Path, tmp_path: Path) -> None:
    named = shutil.copy(tiny, tmp_path / "parent.gguf")
    assert freehold(home, "import", str(named)).status == 0
    library = Library.open(resolve({"home": str(home)}, environ={}))
    (parent,) = library.registry.all()
    model = library.local(parent.reference)
    manifest = asyncio.run(Derivation(library, model).make("Q8_0", 2))
    assert manifest.reference.startswith(f"{parent.reference}-q8_0")
    locked = freehold(home, "lock", manifest.reference)
    assert json.loads(locked.out)["derived_from"] == model.digest
    assert "derived_from" not in json.loads(freehold(home, "lock", parent.reference).out)
    assert freehold(home, "rm", parent.reference).status == 0
    assert library.registry.all() == ()
    assert library.store.blobs() == ()


def test_a_full_disk_is_noticed_before_anything_is_written(
    home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, model = opened_library(home, tiny)
    usage = shutil.disk_usage(home)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match="Q8_0 needs about"):
        asyncio.run(Derivation(library, model).make("Q8_0", 2))
    assert library.store.partials() == ()


@NATIVE
def test_the_requantising_child_writes_its_one_file_only(tmp_path: Path, tiny: Path) -> None:
    if this_machine() is None:
        pytest.skip("Linux on x86-64 or ARM only")
    mine, other = tmp_path / "mine", tmp_path / "other"
    for path in (mine, other):
        path.touch()
    code = (
        "import sys; from pathlib import Path; from freehold.process.confine import confine\n"
        "mine, other = map(Path, sys.argv[1:])\n"
        "if not confine((mine,)).files.active: sys.exit(77)\n"
        "mine.write_bytes(b'long'); mine.write_bytes(b'x')\n"
        "for path in (other, mine.with_name('new')):\n"
        "    try: path.write_bytes(b'x')\n"
        "    except PermissionError: continue\n"
        "    sys.exit(1)\n"
        "try: mine.unlink()\n"
        "except PermissionError: sys.exit(0)\n"
        "sys.exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(mine), str(other)], check=False
    ).returncode
    if done == 77:
        pytest.skip("no Landlock here")
    assert done == 0
    assert mine.read_bytes() == b"x"


@NATIVE
def test_a_file_that_is_no_model_leaves_nothing_behind(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"GGUF" + os.urandom(100))
    target.touch()
    with pytest.raises(EngineError):
        asyncio.run(quantise(source, target, 7, 1))


# The profile is used


@NATIVE
def test_run_uses_the_profile_and_says_so_once(home: Path, tiny: Path) -> None:
    library, model = opened_library(home, tiny)
    made = asyncio.run(Derivation(library, model).make("Q8_0", 2)).files[0].sha256
    Profiles(home).put(profile_of(home, model, made))
    ask = ("run", str(tiny), "hello", "--max-tokens", "4", "--temperature", "0")
    said = freehold(home, *ask)
    assert said.status == 0, said.err
    assert said.err.count("with its profile of 2026-11-24") == 1
    assert "as Q8_0 (mean KL divergence 0.011)" in said.err
    without = freehold(home, *ask, "--no-profile")
    assert without.status == 0
    assert "profile" not in without.err
    assert "used by run and serve" in freehold(home, "show", str(tiny)).out
    library.store.remove_blob(made)
    gone = freehold(home, *ask)
    assert gone.status == 0
    assert gone.out == without.out
    assert gone.err.count("and is not used") == 1


@NATIVE
def test_a_changed_build_invalidates_it_with_one_line(home: Path, tiny: Path) -> None:
    _, model = opened_library(home, tiny)
    stale = msgspec.structs.replace(profile_of(home, model), build="other")
    Profiles(home).put(stale)
    said = freehold(home, "run", str(tiny), "hello", "--max-tokens", "2")
    assert said.status == 0
    (line,) = [line for line in said.err.splitlines() if "profile" in line]
    assert "another build" in line
    assert f"freehold tune {tiny}" in line


def test_a_second_search_does_not_begin_beside_the_first(home: Path, tiny: Path) -> None:
    _, model = opened_library(home, tiny)
    here = Here.now(home)
    baseline = Candidate(None, SETTINGS)
    circumstances = Circumstances(model.digest, here.computer, here.build, "0", baseline, 64, 4)
    with opened(home, circumstances) as journal:
        journal.add(Timing(baseline, 0, 64, SPEED))
        result = freehold(home, "tune", str(tiny), "--depth", "64")
    assert result.status == 5
    assert "being tuned already" in result.err
