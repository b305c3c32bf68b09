"""System calls that Python has no function for (Linux), and what they are numbered here."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class Machine:
    """``audit`` is what the kernel calls this architecture; ``calls`` are its numbers of calls.

    From ``foreign_from`` on, numbers belong to a second set of calls (x32), if there is one.
    """

    audit: int
    calls: Mapping[str, int]
    foreign_from: int | None = None


_EVERYWHERE = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "pidfd_getfd": 438,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}

_MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        "x86_64": Machine(
            audit=0xC000003E,
            calls=MappingProxyType(
                {
                    **_EVERYWHERE,
                    "socket": 41,
                    "connect": 42,
                    "sendto": 44,
                    "sendmsg": 46,
                    "socketpair": 53,
                    "ptrace": 101,
                    "sendmmsg": 307,
                    "process_vm_readv": 310,
                    "process_vm_writev": 311,
                    "seccomp": 317,
                }
            ),
            foreign_from=0x40000000,
        ),
        "aarch64": Machine(
            audit=0xC00000B7,
            calls=MappingProxyType(
                {
                    **_EVERYWHERE,
                    "ptrace": 117,
                    "socket": 198,
                    "socketpair": 199,
                    "connect": 203,
                    "sendto": 206,
                    "sendmsg": 211,
                    "sendmmsg": 269,
                    "process_vm_readv": 270,
                    "process_vm_writev": 271,
                    "seccomp": 277,
                }
            ),
        ),
    }
)


def this_machine() -> Machine | None:
    """None where these calls do not exist or their numbers are not known here."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    return _MACHINES.get(platform.machine())


def call(machine: Machine, name: str, *arguments: object) -> int:
    """One system call. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(machine.calls[name]), *arguments)
    return int(_checked(result))


def gain_no_privileges() -> None:
    """From here on, no program this process starts can be more than it is. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
