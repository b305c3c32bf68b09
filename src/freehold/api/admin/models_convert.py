"""From what the manager says to what programs are told. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from freehold.api.admin.models_schema import Memory, ModelInMemory
from freehold.api.openai.profiles import profile_shown
from freehold.runtime.manager import Standing


@dataclass(frozen=True)
class Now:
    """One moment by the calendar and by the event loop's clock."""

    date: datetime
    time: float

    def of(self, time: float) -> str | None:
        """The date of a time of the event loop; None: the calendar does not reach that far."""
        try:
            date = self.date + timedelta(seconds=time - self.time)
        except OverflowError:
            return None
        return date.isoformat(timespec="seconds")


def in_memory(standing: Standing, now: Now) -> ModelInMemory:
    resident, lease = standing.resident, standing.lease
    profile = None if lease is None else lease.supervisor.profile
    return ModelInMemory(
        model=resident.name,
        state=resident.phase.value,
        since=now.of(resident.since) or now.date.isoformat(timespec="seconds"),
        expires=None if resident.expires is None else now.of(resident.expires),
        pinned=resident.pinned,
        users=resident.users,
        waiting=resident.waiting,
        context=None if lease is None else lease.supervisor.capabilities.context,
        progress=standing.progress,
        stage=standing.stage,
        memory=Memory(expected_bytes=standing.expected, measured_bytes=standing.measured),
        profile=None if profile is None else profile_shown(profile),
    )
