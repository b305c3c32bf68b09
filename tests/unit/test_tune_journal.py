"""What a search keeps, so that a stopped one goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from freehold.domain.engine import CacheConfig
from freehold.domain.errors import StoreBusy
from freehold.lab.tune.grid import Candidate
from freehold.lab.tune.journal import Circumstances, Losing, Timing, opened
from freehold.machine.profile import EngineSettings, Speeds

CANDIDATE = Candidate("Q8_0", EngineSettings(CacheConfig(), 2, 512))
HERE = Circumstances("a" * 64, "computer", "build", "0", CANDIDATE, 2048, 4)
TIMING = Timing(CANDIDATE, 1, 2048, Speeds(1, 2, 3, 4))


def test_what_was_measured_is_there_after_a_crash(tmp_path: Path) -> None:
    with opened(tmp_path, HERE) as journal:
        assert not journal.begun
        journal.add(TIMING)
        journal.add(Losing(CANDIDATE, 8, ()))
    with opened(tmp_path, HERE) as journal:
        assert journal.begun
        assert journal.timing(CANDIDATE, 1, 2048) == TIMING
        assert journal.losing(CANDIDATE, 8) is not None
        assert journal.timing(CANDIDATE, 2, 2048) is None
        assert journal.timing(CANDIDATE, 1, 512) is None
        journal.finish()
    with opened(tmp_path, HERE) as journal:
        assert not journal.begun


@pytest.mark.parametrize("change", ["computer", "build", "version"])
def test_measurements_of_other_circumstances_are_not_used(tmp_path: Path, change: str) -> None:
    with opened(tmp_path, HERE) as journal:
        journal.add(TIMING)
    with opened(tmp_path, msgspec.structs.replace(HERE, **{change: "other"})) as journal:
        assert not journal.begun


def test_a_damaged_journal_begins_anew(tmp_path: Path) -> None:
    with opened(tmp_path, HERE) as journal:
        journal.add(TIMING)
    path = tmp_path / "state" / "tuning" / f"{HERE.source}.json"
    path.write_bytes(path.read_bytes()[:-5])
    with opened(tmp_path, HERE) as journal:
        assert not journal.begun


def test_a_model_is_tuned_once_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path, HERE), pytest.raises(StoreBusy), opened(tmp_path, HERE):
        pass
