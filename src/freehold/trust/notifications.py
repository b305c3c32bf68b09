"""Network calls told by the kernel as they are made (seccomp's user notifications, Linux 5.5).

The observed process puts a filter on itself that hands such calls to whoever holds its listener;
what it starts has the filter too. The observer reads whom the call is for, and lets it go on.
What a stricter filter refuses is refused before it is told.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from freehold.process import seccomp
from freehold.process.kernel import Machine, call, this_machine
from freehold.process.seccomp import NOTIFY, Rule
from freehold.trust.attempts import Attempt, process_of
from freehold.trust.egress import UNKNOWN, Peer

_ORDINARY = (
    *(socket.AF_UNIX, socket.AF_INET, socket.AF_INET6),
    getattr(socket, "AF_NETLINK", socket.AF_UNIX),
)
_TOLD = (
    Rule("connect", NOTIFY),
    Rule("sendto", NOTIFY, argument=5, harmless=(0,)),  # the length of an address
    Rule("sendmsg", NOTIFY),
    Rule("sendmmsg", NOTIFY),
    Rule("socket", NOTIFY, argument=0, harmless=_ORDINARY),
    Rule("io_uring_setup", NOTIFY),
)

# `struct seccomp_notif`: id, thread, flags; then the call: number, architecture, where, arguments.
_NOTIFICATION = struct.Struct("=QII iIQ 6Q")
_RESPONSE = struct.Struct("=QqiI")
_ASK_SIZES = 3  # SECCOMP_GET_NOTIF_SIZES
_SINCE = (5, 5)
_GO_ON = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


def _ioctl(number: int, size: int, direction: int) -> int:
    return direction << 30 | size << 16 | ord("!") << 8 | number


_RECEIVE = _ioctl(0, _NOTIFICATION.size, 3)
_SEND = _ioctl(1, _RESPONSE.size, 3)

_MAX_ADDRESS = 128  # sizeof(struct sockaddr_storage)
_MESSAGE = struct.Struct("=QI4x")  # how `struct msghdr` begins: the address, its length
_MESSAGE_STEP = 64  # sizeof(struct mmsghdr)
_MAX_MESSAGES = 64
_POLL_MILLISECONDS = 100


def tell(through: socket.socket) -> None:
    """In the process to observe: have this thread's calls told, and send the listener away.

    Raises `OSError` where the kernel cannot. Call it while there is one thread.
    """
    machine = this_machine()
    if machine is None:
        raise OSError("there are no notifications on this system")
    ready = threading.Event()
    listeners: list[int] = []

    def send() -> None:
        # From a thread that has no filter: nobody listens yet, so a call would wait for ever.
        ready.wait()
        if listeners:
            socket.send_fds(through, [b"\0"], listeners)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        code = seccomp.compile_filter(machine, _TOLD)
        listeners.append(seccomp.install(machine, code, seccomp.NEW_LISTENER))
    finally:
        ready.set()
        sender.join()
    os.close(listeners[0])


def usable() -> bool:
    """Whether this kernel tells, and lets go on what it has told."""
    machine = this_machine()
    if machine is None:
        return False
    sizes = ctypes.create_string_buffer(6)
    try:
        call(machine, "seccomp", ctypes.c_ulong(_ASK_SIZES), ctypes.c_ulong(0), sizes)
    except OSError:
        return False
    same = struct.unpack("=HHH", sizes.raw)[:2] == (_NOTIFICATION.size, _RESPONSE.size)
    return same and tuple(map(int, os.uname().release.split(".")[:2])) >= _SINCE


def follow(listener: int, see: Callable[[Attempt], None], over: threading.Event) -> None:
    """Answer what the kernel tells until nobody is left to observe, or ``over`` is set."""
    machine = this_machine()
    assert machine is not None
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while not over.is_set():
        for _, events in poll.poll(_POLL_MILLISECONDS):
            if events & select.POLLIN:
                _answer_one(machine, listener, see)
            elif events & (select.POLLHUP | select.POLLERR):
                return


def _answer_one(machine: Machine, listener: int, see: Callable[[Attempt], None]) -> None:
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except FileNotFoundError:  # whoever called was killed
        return
    identity, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    try:
        for attempt in _attempts(machine, thread, number, arguments):
            see(attempt)
    finally:
        response = bytearray(_RESPONSE.pack(identity, 0, 0, _GO_ON))
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(listener, _SEND, response)


def _attempts(
    machine: Machine, thread: int, number: int, arguments: list[int]
) -> Iterator[Attempt]:
    name = next(name for name, known in machine.calls.items() if known == number)
    who = process_of(thread)
    if name == "socket":
        yield Attempt(who, name, Peer(ctypes.c_int(arguments[0]).value))
    elif name == "io_uring_setup":
        yield Attempt(who, name, Peer(UNKNOWN))
    else:
        try:
            for peer in _peers(thread, name, arguments):
                yield Attempt(who, name, peer)
        except (OSError, struct.error):
            yield Attempt(who, name, Peer(UNKNOWN), "its address could not be read")


def _peers(thread: int, name: str, arguments: list[int]) -> Iterator[Peer]:
    match name:
        case "connect":
            yield _peer(_read(thread, arguments[1], arguments[2]))
        case "sendto":
            yield _peer(_read(thread, arguments[4], arguments[5]))
        case _:
            count = min(arguments[2], _MAX_MESSAGES) if name == "sendmmsg" else 1
            for index in range(count):
                header = _read(thread, arguments[1] + index * _MESSAGE_STEP, _MESSAGE.size)
                address, length = _MESSAGE.unpack(header)
                if address and length:
                    yield _peer(_read(thread, address, length))


def _read(thread: int, address: int, length: int) -> bytes:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(min(length & 0xFFFFFFFF, _MAX_ADDRESS))


def _peer(raw: bytes) -> Peer:
    """A `struct sockaddr` in words. Raises `struct.error` for one cut short."""
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET:
        port, address = struct.unpack_from("!2xH4s", raw)
        return Peer(family, socket.inet_ntop(family, address), port)
    if family == socket.AF_INET6:
        port, address = struct.unpack_from("!2xH4x16s", raw)
        return Peer(family, socket.inet_ntop(family, address), port)
    if family == socket.AF_UNIX:
        path = raw[2:].removeprefix(b"\0").partition(b"\0")[0]
        return Peer(family, path.decode("utf-8", "replace"))
    return Peer(family)
