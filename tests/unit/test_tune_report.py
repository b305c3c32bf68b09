"""What `tune` prints: speeds beside losses, and who was chosen."""

from __future__ import annotations

import msgspec

from freehold.cli.tune_report import headings, rows, tuning, verdict
from freehold.domain.engine import CacheConfig
from freehold.lab.tune.grid import Candidate
from freehold.lab.tune.search import Point, frontier, winner
from freehold.lab.tune.tuner import Outcome
from freehold.machine.profile import EngineSettings, Loss, Profile, Speeds
from freehold.machine.tuning import Tuning

SETTINGS = EngineSettings(CacheConfig(), threads=2, micro_batch=512)
BEFORE = Point(Candidate(None, SETTINGS), Speeds(100, 30, 20, 60))
FAST = Point(
    Candidate("Q4_0", SETTINGS),
    Speeds(300, 60, 40, 120),
    Loss(4096, 0.119, 0.006, 0.79, 0.01, 80.0, 92.0, 0.02),
)
GOOD = Point(
    Candidate("Q8_0", SETTINGS),
    Speeds(200, 45, 30, 90),
    Loss(4096, 0.002, 0.0001, 0.96, 0.004, 80.0, 80.1, 0.001),
)


def outcome(max_loss: float) -> Outcome:
    points = (FAST, GOOD)
    chosen = winner(BEFORE, points, max_loss)
    profile = Profile(
        *("a" * 64, "b" * 64, "computer", "build", "2026-11-24T00:00:00+00:00", "0"),
        *(SETTINGS, 2048, 4, BEFORE.speeds, chosen.speeds),
        quantisation=chosen.candidate.quantisation,
        loss=chosen.loss,
    )
    return Outcome(BEFORE, points, frontier(BEFORE, points), chosen, profile)


def test_every_speed_has_its_loss_beside_it() -> None:
    told = outcome(0.02)
    columns = headings(told.profile)
    table = [dict(zip(columns, row, strict=True)) for row in rows(told, 0.02)]
    assert [row["WEIGHTS"] for row in table] == ["as they are", "Q4_0", "Q8_0"]
    assert [row["KL DIVERGENCE"] for row in table] == [
        "none",
        "0.1190 ± 0.0060",
        "0.0020 ± 0.0001",
    ]
    assert [row[""] for row in table] == ["", "loses too much", "chosen"]
    assert table[2]["GAIN"] == "1.64"


def test_the_gains_of_the_chosen_are_told_with_its_loss() -> None:
    *_, last = verdict("m", outcome(0.02), 0.02)
    assert "reading x 2.00" in last
    assert "mean KL divergence of 0.0020" in last
    *_, nothing = verdict("m", outcome(0), 0)
    assert "it stays so" in nothing


def test_programs_are_told_the_same() -> None:
    found = tuning("m", outcome(1), 1)
    data = msgspec.to_builtins(found)
    assert [point["chosen"] for point in (data["baseline"], *data["points"])] == [0, 1, 0]
    assert all(point["on_frontier"] for point in data["points"])
    assert data["points"][0]["loss"]["divergence"] == 0.119
    assert msgspec.json.decode(msgspec.json.encode(found), type=Tuning) == found
