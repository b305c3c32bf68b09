"""This computer, as far as it can be found out without root, network or waiting.

Best effort throughout: what a system does not tell is left out, and nothing raises.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from freehold.machine import gpu as graphics
from freehold.machine.computer import Computer, Disk, Gpu, Memory, Processor
from freehold.machine.container import Limits, limits, whole_cores

# Those that llama.cpp has kernels for, as Linux spells them. ``asimd`` is what Arm's NEON is
# called there.
_INSTRUCTION_SETS = frozenset(
    {
        *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
        *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
        *("neon", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
        *("vsx", "rvv"),
    }
)
_SPELLINGS = {"asimd": "neon"}
# macOS: one name in `sysctl` for each.
_APPLE_SETS = {
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
}
_APPLE_FACTS = ("machdep.cpu.brand_string", "iogpu.wired_limit_mb")


def probe(home: Path, environment: Mapping[str, str]) -> Computer:
    """This computer now. ``home`` is where the store is, or will be."""
    apple = _sysctl() if platform.system() == "Darwin" else {}
    allowed = limits()
    memory = _memory(allowed)
    return Computer(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(allowed, apple),
        memory=memory,
        disk=_disk(home),
        gpus=_gpus(environment, memory, apple),
    )


def usable_cores() -> int:
    """Cores this process may keep busy: affinity, cpusets and quotas respected; at least one."""
    return _cores(limits())


def memory() -> Memory:
    """What this process and its children may have, and could have now."""
    return _memory(limits())


@functools.cache
def own_instruction_sets() -> tuple[str, ...]:
    """This processor's, of those that matter for speed."""
    if sys.platform == "darwin":
        return _apple_sets(_sysctl())
    return instruction_sets(_cpuinfo())


def _cores(allowed: Limits) -> int:
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return count if allowed.cores is None else min(count, whole_cores(allowed.cores))


def _processor(allowed: Limits, apple: Mapping[str, str]) -> Processor:
    described = _cpuinfo()
    name = apple.get("machdep.cpu.brand_string") or described.get("name")
    return Processor(
        name=name or platform.processor() or platform.machine() or "unknown",
        architecture=platform.machine(),
        cores=_cores(allowed),
        physical=_physical(),
        instruction_sets=_apple_sets(apple) if apple else instruction_sets(described),
    )


def _physical() -> int | None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        return psutil.cpu_count(logical=False)
    return None


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """``name`` and ``flags`` of the first processor it tells of."""
    known = {"model name": "name", "Model": "name", "flags": "flags", "Features": "flags"}
    found: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return found
    for key, _, value in (line.partition(":") for line in lines):
        if (word := known.get(key.strip())) is not None:
            found.setdefault(word, value.strip())
    return found


def instruction_sets(described: Mapping[str, str]) -> tuple[str, ...]:
    """Those that matter, in one spelling, out of the flags of a processor."""
    flags = (_SPELLINGS.get(flag, flag) for flag in described.get("flags", "").split())
    return tuple(sorted(_INSTRUCTION_SETS.intersection(flags)))


def _apple_sets(apple: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(ours for key, ours in _APPLE_SETS.items() if apple.get(key) == "1"))


def _sysctl() -> dict[str, str]:
    names = (*_APPLE_FACTS, *_APPLE_SETS)
    try:
        said = subprocess.run(
            ["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {key: value.strip() for key, _, value in (s.partition(":") for s in said.splitlines())}


def _memory(allowed: Limits) -> Memory:
    machine = psutil.virtual_memory()
    return limited(Memory(machine.total, machine.available), allowed)


def limited(machine: Memory, allowed: Limits) -> Memory:
    """The machine's memory under the limits of a container: the tightest total, the least left."""
    tightest = min(allowed.memory, key=lambda limit: limit.total, default=None)
    left = min((limit.left for limit in allowed.memory), default=machine.available)
    if tightest is None or tightest.total >= machine.total:
        return Memory(machine.total, min(machine.available, left))
    return Memory(tightest.total, min(machine.available, left), limited_by=tightest.by)


def _disk(home: Path) -> Disk:
    """Of the nearest folder there is: a store that was never used has none yet."""
    for folder in (home, *home.absolute().parents):
        with contextlib.suppress(OSError):
            return Disk(str(home), shutil.disk_usage(folder).free)
    return Disk(str(home), 0)


def _gpus(
    environment: Mapping[str, str], memory: Memory, apple: Mapping[str, str]
) -> tuple[Gpu, ...]:
    if apple:
        chip = apple.get("machdep.cpu.brand_string", "")
        if platform.machine() != "arm64":
            return ()
        wired = apple.get("iogpu.wired_limit_mb", "0")
        limit = int(wired) * 2**20 if wired.isdecimal() else 0
        return (graphics.apple(chip, memory.total, limit),)
    return (*graphics.nvidia(environment), *graphics.amd())
