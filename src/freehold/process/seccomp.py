"""Seccomp: a program the kernel runs before each system call of a process (Linux).

Rules are written one per call and compiled to the kernel's filter language. A filter cannot be
taken off again, and what the process starts has it too. It sees numbers, never what a pointer
points to.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from freehold.process.kernel import Machine, call, gain_no_privileges

_SET_MODE_FILTER = 1
ALL_THREADS = 1  # SECCOMP_FILTER_FLAG_TSYNC
NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER
# Kernels before 5.16 slow a filtered process down against attacks on its own memory.
_SPEC_ALLOW = 4

_ALLOW = 0x7FFF0000
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: whoever listens decides


def refuse(number: int) -> int:
    """The action that makes a call fail with this error."""
    return 0x00050000 | number


@dataclass(frozen=True)
class Rule:
    """What happens to one call: ``action``, unless ``argument`` is one of ``harmless``.

    Arguments are compared as the kernel's ``int``; ``argument`` None: always the action.
    """

    call: str
    action: int
    argument: int | None = None
    harmless: tuple[int, ...] = ()


# One instruction: code, jump if true, jump if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
# Where what is loaded lies in `struct seccomp_data`; the low half of an argument comes first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


def compile_filter(machine: Machine, rules: Sequence[Rule]) -> bytes:
    """Other calls are allowed. Calls of another architecture do not exist (``ENOSYS``)."""
    absent = _return(refuse(errno.ENOSYS))
    code = [
        _one(_LOAD, _ARCHITECTURE),
        _one(_JUMP_EQUAL, machine.audit, yes=1),
        absent,
        _one(_LOAD, _NUMBER),
    ]
    if machine.foreign_from is not None:
        code += [_one(_JUMP_AT_LEAST, machine.foreign_from, no=1), absent]
    for rule in rules:
        body = _body(rule)
        code += [_one(_JUMP_EQUAL, machine.calls[rule.call], no=len(body)), *body]
    return b"".join([*code, _return(_ALLOW)])


def _body(rule: Rule) -> list[bytes]:
    """Always ends in a decision, so what follows still finds the call's number loaded."""
    code = []
    if rule.argument is not None:
        code.append(_one(_LOAD, _ARGUMENTS + 8 * rule.argument))
        for value in rule.harmless:
            code += [_one(_JUMP_EQUAL, value, no=1), _return(_ALLOW)]
    return [*code, _return(rule.action)]


def _one(code: int, operand: int, *, yes: int = 0, no: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, yes, no, operand)


def _return(action: int) -> bytes:
    return _one(_RETURN, action)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def install(machine: Machine, code: bytes, flags: int) -> int:
    """Put a filter on this process; with `NEW_LISTENER` on this thread, returning a descriptor.

    Raises `OSError`.
    """
    gain_no_privileges()
    program = _Program(len(code) // _INSTRUCTION.size, code)
    result = call(
        machine,
        "seccomp",
        *(ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(flags | _SPEC_ALLOW)),
        ctypes.byref(program),
    )
    if flags & ALL_THREADS and result:
        raise OSError(errno.ESRCH, f"thread {result} has a filter of its own")
    return result
