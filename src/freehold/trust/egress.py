"""What leaves this machine: which addresses do, and a hook that refuses them.

The decisions are pure. The hook is Python's own (`sys.addaudithook`): it sees what Python code
does in this process, not native code and not other processes; those are `process.confine`'s.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from freehold.domain.errors import OfflineRefused

UNKNOWN = -1  # a family nobody knows
_AF_ALG = 38  # the kernel's ciphers
_AT_HOME = frozenset({socket.AF_UNSPEC, socket.AF_UNIX, getattr(socket, "AF_NETLINK", 16), _AF_ALG})
_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})

# Whoever is asked for a name here asks others: a name server, also one on this machine.
_NAME_SERVICE_PORTS = frozenset({53, 853, 5353})
_NAME_SERVICE_SOCKETS = ("/run/systemd/resolve/", "/run/avahi-daemon/")

_HINT = "Leave out --offline (and FREEHOLD_OFFLINE) to allow the network."


@dataclass(frozen=True)
class Peer:
    """Whom a socket is pointed at. ``host`` is an address or a name, or a UNIX socket's path."""

    family: int
    host: str = ""
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host} port {self.port}"

    @property
    def leaves(self) -> bool:
        """Whether what is sent there leaves this machine. What nobody knows does."""
        if self.family == socket.AF_UNIX:
            path = self.host.removeprefix("/var")
            return path.startswith(_NAME_SERVICE_SOCKETS)
        if self.family in _INTERNET:
            return self.port in _NAME_SERVICE_PORTS or not is_here(self.host)
        return self.family not in _AT_HOME


def is_here(host: str) -> bool:
    """Whether an address or a name is this machine, without asking anyone."""
    if host == "localhost":
        return True
    address = _address(host)
    if address is None:
        return False
    # To connect to the unspecified address is to connect to oneself.
    return address.is_loopback or address.is_unspecified


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def family_name(family: int) -> str:
    """``AF_INET``; the number where there is no name for it."""
    if family == UNKNOWN:
        return ""
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return str(family)


# What Python's audit events say (https://docs.python.org/3/library/audit_events.html).


def _peer_of(arguments: tuple[object, ...]) -> Peer | None:
    """Of ``socket.connect``, ``socket.sendto`` and ``socket.sendmsg``: a socket and an address."""
    sock, address = arguments[:2]
    assert isinstance(sock, socket.SocketType)
    if address is None:  # a message on a connection
        return None
    return peer_at(sock.family, address)


def peer_at(family: int, address: object) -> Peer:
    """An address as Python writes it: a path, or a tuple that begins with host and port."""
    match address:
        case str() | bytes() | bytearray():
            return Peer(family, _text(address))
        case (str() | bytes() | bytearray() as host, int(port), *_):
            return Peer(family, _text(host), port)
        case _:
            return Peer(family, str(address))


def _looked_up(arguments: tuple[object, ...]) -> Peer | None:
    """Of ``getaddrinfo`` and ``gethostbyname``: a name to ask for, None where none is asked."""
    host = arguments[0]
    if not isinstance(host, str | bytes | bytearray):
        return None
    name = _text(host)
    asked = name and not is_here(name) and _address(name) is None
    return Peer(socket.AF_INET, name) if asked else None


def _looked_back(arguments: tuple[object, ...]) -> Peer | None:
    """Of ``gethostbyaddr`` and ``getnameinfo``: an address to ask the name of."""
    asked = arguments[0]
    return peer_at(socket.AF_INET, asked if isinstance(asked, tuple) else (asked, 0))


def _text(value: str | bytes | bytearray) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")


_EVENTS: Mapping[str, Callable[[tuple[object, ...]], Peer | None]] = MappingProxyType(
    {
        "socket.connect": _peer_of,
        "socket.sendto": _peer_of,
        "socket.sendmsg": _peer_of,
        "socket.getaddrinfo": _looked_up,
        "socket.gethostbyname": _looked_up,
        "socket.gethostbyaddr": _looked_back,
        "socket.getnameinfo": _looked_back,
    }
)

See = Callable[[str, Peer], None]


def watch(see: See) -> None:
    """Tell ``see`` of every peer Python code here turns to, before it does. Never undone."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        read = _EVENTS.get(event)
        if read is not None and (peer := read(arguments)) is not None:
            see(event.removeprefix("socket."), peer)

    sys.addaudithook(hook)


_refusing = False


def refuse_egress() -> None:
    """From here on Python code in this process reaches nobody beyond this machine.

    It meets `OfflineRefused`; but a name handed to `socket.connect` itself is looked up before
    the hook is asked (`process.confine.deny_network`). Never undone.
    """
    global _refusing  # noqa: PLW0603 - the hook itself cannot be looked up
    if not _refusing:
        _refusing = True
        watch(_refuse)


def _refuse(event: str, peer: Peer) -> None:
    if not peer.leaves:
        return
    if event in ("getaddrinfo", "gethostbyname"):
        doing = f"look up {peer.host}"
    else:
        doing = f"connect to {peer}"
    raise OfflineRefused(
        f"freehold is offline and does not {doing}.", hint=_HINT, values={"host": peer.host}
    )
