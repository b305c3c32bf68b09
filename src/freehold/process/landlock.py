"""Landlock: a process gives up what it will not do to files (Linux 5.13 and later).

Everything may be read. Nothing may be written, made, renamed, removed or executed, but for the
devices a computation writes to, and the files a child is there to write. Where the kernel can, TCP
goes too, and so do signals and abstract UNIX sockets across the border. What was open before stays
as it was opened.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from freehold.process.kernel import Machine, call, gain_no_privileges

# `struct landlock_ruleset_attr` (files, network, scoped) and `landlock_path_beneath_attr`.
_RULESET = struct.Struct("=QQQ")
_BENEATH = struct.Struct("=Qi")

_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_REMOVE_AND_MAKE = 0b1_1111_1111 << 4  # both REMOVE_ and all seven MAKE_ rights
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

# Right -> the version of Landlock that knows it.
_TRUNCATE_SINCE = 3
_FILES = (
    (1, _EXECUTE | _WRITE_FILE | _REMOVE_AND_MAKE),
    (2, _REFER),
    (_TRUNCATE_SINCE, _TRUNCATE),
)
_TCP_SINCE = 4
_SCOPES_SINCE = 6

# llama-cpp-python opens /dev/null when it is imported; the others are graphics processors.
_DEVICES = ("null", "kfd", "dri", "nvidia*", "accel")


def version(machine: Machine) -> int:
    """Of the kernel's Landlock. Raises `OSError` where there is none or it is switched off."""
    return call(
        machine,
        "landlock_create_ruleset",
        *(None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)),
    )


def restrict(machine: Machine, writable: tuple[Path, ...] = ()) -> int:
    """Give up writing, on this thread and those it starts; returns Landlock's version.

    The files in ``writable``, which must exist, can still be written and cut. Raises `OSError`.
    """
    known = version(machine)
    rules = _RULESET.pack(
        sum(rights for since, rights in _FILES if known >= since),
        _BIND_AND_CONNECT_TCP if known >= _TCP_SINCE else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if known >= _SCOPES_SINCE else 0,
    )
    ruleset = call(
        machine,
        "landlock_create_ruleset",
        *(rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0)),
    )
    try:
        for pattern in _DEVICES:
            for path in Path("/dev").glob(pattern):
                _let(machine, ruleset, path, _WRITE_FILE)
        for path in writable:
            rights = _WRITE_FILE | (_TRUNCATE if known >= _TRUNCATE_SINCE else 0)
            _let(machine, ruleset, path, rights)
        gain_no_privileges()
        call(machine, "landlock_restrict_self", *(ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return known


def _let(machine: Machine, ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        call(
            machine,
            "landlock_add_rule",
            *(ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH)),
            *(_BENEATH.pack(rights, descriptor), ctypes.c_uint32(0)),
        )
    finally:
        os.close(descriptor)
