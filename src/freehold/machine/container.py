"""What a control group allows: the limits of our group and of every group it lies in.

Version 1 gives each resource a tree of its own; version 2 has one tree. Where the kernel mounts
them is in ``/proc/self/mountinfo``, which group is ours in ``/proc/self/cgroup``. Inside a
container the mount may show a part of the tree only: groups beyond it cannot be seen, but version
1's ``hierarchical_memory_limit`` includes them.

Source: the kernel's ``Documentation/admin-guide/cgroup-v1/memory.rst`` and ``cgroup-v2.rst``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes a group may use, what of it is left, and the file that says so.

    File pages count as left: the kernel gives them up when the group needs the memory.
    """

    total: int
    left: int
    by: str


@dataclass(frozen=True)
class Limits:
    """``memory`` are all limits found, from our group outwards; ``cores`` the smallest quota of
    processor time, in cores."""

    memory: tuple[MemoryLimit, ...] = ()
    cores: float | None = None


@dataclass(frozen=True)
class _Group:
    """One of the groups we are in: ``folder`` is where its files are."""

    version: int
    controllers: frozenset[str]
    folder: Path


def limits(root: Path = Path("/")) -> Limits:
    """Best effort: what cannot be read limits nothing. ``root`` is for trees recorded elsewhere."""
    groups = tuple(_groups(root))
    memory = (found for group in groups if (found := _memory(group, root)) is not None)
    quotas = [cores for group in groups if (cores := _quota(group)) is not None]
    return Limits(tuple(memory), min(quotas, default=None))


def _groups(root: Path) -> Iterator[_Group]:
    ours = dict(_memberships(_text(root / "proc/self/cgroup") or ""))
    for version, controllers, top, mount in _mounts(_text(root / "proc/self/mountinfo") or ""):
        path = next(
            (
                path
                for names, path in ours.items()
                if (version == 2 and not names) or names & controllers
            ),
            None,
        )
        if path is None:
            continue
        inside = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        if ".." in inside.parts:
            inside = PurePosixPath()
        for part in (inside, *inside.parents):
            folder = root / mount.lstrip("/") / part
            yield _Group(version, controllers, folder)
            if part == PurePosixPath():
                break


def _memberships(text: str) -> Iterator[tuple[frozenset[str], PurePosixPath]]:
    """Lines ``4:memory:/path``; version 2 has the line ``0::/path``."""
    for line in text.splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if path.startswith("/"):
            yield frozenset(name for name in names.split(",") if name), PurePosixPath(path)


def _mounts(text: str) -> Iterator[tuple[int, frozenset[str], PurePosixPath, str]]:
    """Version, controllers, the part of the tree that is mounted, and where.

    ``36 25 0:31 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory``
    """
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3 or right[0] not in {"cgroup", "cgroup2"}:
            continue
        version = 2 if right[0] == "cgroup2" else 1
        yield version, frozenset(right[2].split(",")), PurePosixPath(left[3]), _unescaped(left[4])


def _unescaped(path: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def _memory(group: _Group, root: Path) -> MemoryLimit | None:
    names: tuple[str, ...] = ("memory.limit_in_bytes",)
    usage = "memory.usage_in_bytes"
    if group.version == 2:
        names, usage = ("memory.max", "memory.high"), "memory.current"
    statistics = _statistics(group.folder / "memory.stat")
    found = [
        (total, str(Path("/") / (group.folder / name).relative_to(root)))
        for name in names
        if (total := _number(group.folder / name)) is not None
    ]
    if (outer := statistics.get("hierarchical_memory_limit")) is not None:
        by = Path("/") / (group.folder / "memory.stat").relative_to(root)
        found.append((outer, f"{by} (hierarchical_memory_limit)"))
    if not found:
        return None
    total, by_file = min(found, key=lambda each: each[0])
    prefix = "total_" if "total_inactive_file" in statistics else ""
    pages = sum(statistics.get(f"{prefix}{name}_file", 0) for name in ("inactive", "active"))
    used = max(0, (_number(group.folder / usage) or 0) - pages)
    return MemoryLimit(total, max(0, total - used), by_file)


def _quota(group: _Group) -> float | None:
    if group.version == 2:
        words = (_text(group.folder / "cpu.max") or "").split()
        quota, period = _whole(words[:1]), _whole(words[1:2])
    else:
        quota = _number(group.folder / "cpu.cfs_quota_us")
        period = _number(group.folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def whole_cores(quota: float) -> int:
    """Threads that a quota keeps running: one more would make all of them wait, at every barrier,
    for the one that is out of time."""
    return max(1, math.floor(quota + 1e-6))


def _statistics(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in (_text(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    return _whole((_text(path) or "").split())


def _whole(words: Iterable[str]) -> int | None:
    """The first word as a number; ``max`` and everything else mean no limit."""
    try:
        return int(next(iter(words), ""))
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
