"""What this computer is found to be: container limits from trees recorded elsewhere, and here."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.machine.computer import Memory
from freehold.machine.container import Limits, MemoryLimit, limits, whole_cores
from freehold.machine.probe import instruction_sets, limited, probe, usable_cores

GIB = 2**30
UNLIMITED = "9223372036854771712"

VERSION_2 = "30 24 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
VERSION_1 = (
    "33 28 0:30 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 28 0:31 {top} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def tree(root: Path, group: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with what the kernel would show of groups."""
    for name, text in {"proc/self/cgroup": group, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_the_parents_limit_counts_and_file_pages_are_free(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/user.slice/app.scope\n",
        VERSION_2.format(top="/"),
        {
            "sys/fs/cgroup/user.slice/app.scope/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/app.scope/memory.high": str(6 * GIB),
            "sys/fs/cgroup/user.slice/app.scope/memory.current": str(2 * GIB),
            "sys/fs/cgroup/user.slice/app.scope/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            "sys/fs/cgroup/user.slice/app.scope/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": str(4 * GIB),
            "sys/fs/cgroup/user.slice/memory.current": str(3 * GIB),
            "sys/fs/cgroup/user.slice/memory.stat": f"active_file {GIB}\ninactive_file {GIB}\n",
            "sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
        },
    )
    found = limits(root)
    assert [(each.total, each.left) for each in found.memory] == [
        (6 * GIB, 5 * GIB),
        (4 * GIB, 3 * GIB),
    ]
    assert found.cores == 2.5
    memory = limited(Memory(64 * GIB, 60 * GIB), found)
    assert memory == Memory(4 * GIB, 3 * GIB, "/sys/fs/cgroup/user.slice/memory.max")


def test_version_1_in_a_container_that_sees_its_own_part_of_the_tree(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "4:memory:/docker/abc\n5:cpu,cpuacct:/docker/abc\n0::/\n",
        VERSION_1.format(top="/docker/abc"),
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.stat": (
                f"hierarchical_memory_limit {3 * GIB}\ntotal_inactive_file {GIB // 2}\n"
                f"total_active_file 0\ninactive_file 7\n"
            ),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    (found,) = limits(root).memory
    assert (found.total, found.left) == (3 * GIB, 3 * GIB - GIB // 2)
    assert "hierarchical_memory_limit" in found.by  # set outside, where no file can be seen
    assert limits(root).cores == 0.5


def test_limits_beyond_the_machine_are_none(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "4:memory:/a\n",
        VERSION_1.format(top="/"),
        {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": UNLIMITED},
    )
    machine = Memory(8 * GIB, 5 * GIB)
    assert limits(root).memory
    assert limited(machine, limits(root)) == machine


@pytest.mark.parametrize("damage", ["", "nonsense", "0:", "a b c - cgroup2\n", "0::/../x\n"])
def test_unreadable_trees_limit_nothing(tmp_path: Path, damage: str) -> None:
    assert limits(tree(tmp_path, damage, damage, {})) == Limits()
    assert limits(tree(tmp_path, damage, VERSION_2.format(top="/"), {})) == Limits()
    assert limits(tmp_path / "nothing") == Limits()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=4))
def test_memory_is_never_more_than_any_limit(pairs: list[tuple[int, int]]) -> None:
    allowed = Limits(tuple(MemoryLimit(t, min(t, left), "x") for t, left in pairs))
    memory = limited(Memory(50, 40), allowed)
    assert memory.available <= memory.total or not pairs
    assert memory.total == min([50, *(t for t, _ in pairs)])
    assert memory.available == min([40, *(min(pair) for pair in pairs)])
    assert (memory.limited_by is None) == (memory.total == 50)


@pytest.mark.parametrize(("quota", "cores"), [(0.1, 1), (1.0, 1), (1.5, 1), (2.0, 2), (3.99, 3)])
def test_whole_cores(quota: float, cores: int) -> None:
    assert whole_cores(quota) == cores


def test_instruction_sets_in_one_spelling() -> None:
    intel = {"flags": "fpu sse4_2 avx2 avx512f amx_tile amx_int8 ht"}
    assert instruction_sets(intel) == ("amx_int8", "amx_tile", "avx2", "avx512f", "sse4_2")
    assert instruction_sets({"flags": "fp asimd asimddp i8mm"}) == ("asimddp", "i8mm", "neon")
    assert instruction_sets({}) == ()


def test_this_computer(tmp_path: Path) -> None:
    here = probe(tmp_path / "not" / "yet" / "there", {})
    machine = psutil.virtual_memory().total
    assert 0 < here.memory.available <= here.memory.total <= machine
    assert here.processor.cores == usable_cores() <= (os.cpu_count() or 1)
    assert here.disk.available > 0
    assert here.fingerprint == probe(tmp_path, {}).fingerprint  # not by the hour


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_counts() -> None:
    all_of_them = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(all_of_them)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, all_of_them)
