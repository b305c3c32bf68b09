"""A network of its own for a program that is not ours: loopback, and nothing beyond it.

What native code is told by environment variables is a request; a network namespace is not. UNIX
sockets with a path, as they belong to the file system, reach across.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from freehold.process.confine import Layer

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def leave_network() -> Layer:
    """Move this process, and what it starts, into an empty network. Call it in a single thread.

    Without the right to do so, a user namespace gives it, where the kernel lets anybody make one.
    Some let anybody make it and nobody use it, so a child goes first: where it fails, this process
    stays in the network it has.
    """
    if sys.platform != "linux":
        return Layer(False, f"not possible on {sys.platform}")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if _leave().active else 1
        finally:  # whatever happens, it must not go on as if it were us
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        return Layer(False, "the kernel does not let this user have a network namespace")
    return _leave()


def _leave() -> Layer:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
                return Layer(False, f"the kernel refused: {os.strerror(ctypes.get_errno())}")
            _map_ids(user, group)
        _loopback_up()
    except OSError as error:
        return Layer(False, f"a network of its own could not be set up: {error.strerror}")
    return Layer(True, "a network namespace with nothing but loopback")


def _map_ids(user: int, group: int) -> None:
    """Stay who we are in the new user namespace."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            Path("/proc/self", name).write_bytes(text.encode())
        except OSError as error:
            if error.errno != errno.ENOENT:  # a kernel without setgroups
                raise


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = struct.pack("16sh14x", b"lo", 0)
        told = fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, asked)
        flags = struct.unpack("16sh14x", told)[1]
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
