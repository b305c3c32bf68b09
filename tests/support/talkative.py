"""A program that turns to an address that is nobody's (RFC 5737) in every way, to be observed.

Each way has a port of its own. Nothing waits for an answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

HOST = "192.0.2.1"
CONNECT, SENDTO, SENDMSG, NATIVE_CONNECT, NATIVE_SENDTO, IN_A_CHILD = range(8001, 8007)


def by_python() -> None:
    with socket.socket(socket.AF_INET) as stream:
        stream.setblocking(False)
        stream.connect_ex((HOST, CONNECT))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with contextlib.suppress(OSError):  # no network, no route
            datagrams.sendto(b"x", (HOST, SENDTO))
        with contextlib.suppress(OSError):
            datagrams.sendmsg([b"x"], [], 0, (HOST, SENDMSG))


def by_native_code(connect: int, sendto: int) -> None:
    libc = ctypes.CDLL(None)
    made = libc.socket(2, socket.SOCK_DGRAM, 0)
    for function, arguments, port in (
        (libc.connect, (), connect),
        (libc.sendto, (b"x", ctypes.c_size_t(1), 0), sendto),
    ):
        address = struct.pack("=H", 2) + struct.pack("!H4s8x", port, socket.inet_aton(HOST))
        function(made, *arguments, address, len(address))
    os.close(made)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        socket.create_connection(here.getsockname()).close()
    by_python()
    by_native_code(NATIVE_CONNECT, NATIVE_SENDTO)
    child = os.fork()
    if child == 0:
        by_native_code(IN_A_CHILD, IN_A_CHILD)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
