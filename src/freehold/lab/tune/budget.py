"""How much is measured in the time there is. Pure; all times are seconds."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.machine.profile import Speeds

# What a child needs to start and load, at least.
_START = 1.5


@dataclass(frozen=True)
class Workload:
    """As `tuning_messages.Time`."""

    depth: int
    users: int
    steps: int

    def seconds(self, speeds: Speeds) -> float:
        """What it takes at these speeds."""
        return (
            (self.depth + 64 * self.users) / speeds.prefill
            + self.steps / speeds.deep
            + self.steps / speeds.empty
            + self.users * self.steps / speeds.many
        )


@dataclass(frozen=True)
class Effort:
    """``kept`` go from one stage to the next; the final has so many ``rounds``; losses are
    measured over so many ``windows``."""

    kept: int
    rounds: int
    windows: int


EFFORTS = (Effort(3, 3, 24), Effort(2, 3, 16), Effort(2, 2, 12), Effort(1, 2, 8))

WINDOW_BEFORE, WINDOW_SCORED = 64, 256


def early(full: Workload) -> Workload:
    """For the first stages: a quarter of the depth tells who is hopeless."""
    return Workload(max(64, full.depth // 4), full.users, max(4, full.steps // 2))


def estimate(
    effort: Effort, full: Workload, speeds: Speeds, grid: tuple[int, int], formats: int
) -> float:
    """Seconds for a whole search; ``grid`` counts the candidates of the first stage, and those
    that the second makes of each."""
    short = early(full).seconds(speeds) + _START
    first, multiplied = grid
    searched = first + effort.kept * multiplied + formats * (1 + effort.kept)
    return searched * short + remaining(effort, full, speeds, formats + 2)


def remaining(effort: Effort, full: Workload, speeds: Speeds, finalists: int) -> float:
    """Of the final and the losses."""
    final = finalists * effort.rounds * (full.seconds(speeds) + _START)
    tokens = effort.windows * (WINDOW_BEFORE + WINDOW_SCORED)
    # Beside reading them, the models' predictions are compared.
    return final + finalists * tokens / speeds.prefill * 1.3


def effort_within(
    seconds: float, full: Workload, speeds: Speeds, grid: tuple[int, int], formats: int
) -> tuple[Effort, float]:
    """The most thorough that fits, or else the least, and what it is estimated to take."""
    for effort in EFFORTS:
        needed = estimate(effort, full, speeds, grid, formats)
        if needed <= seconds:
            break
    return effort, needed
