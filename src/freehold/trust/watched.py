"""The observed side: make this process tell whom it turns to, then be the program asked for.

Run as ``python -P -m freehold.trust.watched kernel|hook FD MODULE ARGUMENTS…``: ``FD`` is one end
of a socket pair, ``MODULE`` has a ``main``.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys

import msgspec

from freehold.trust import egress, notifications
from freehold.trust.egress import Peer


class Said(msgspec.Struct, frozen=True):
    """What the hook saw, as one line of JSON."""

    pid: int
    call: str
    family: int
    host: str
    port: int | None


def tell_by_hook(through: socket.socket) -> None:
    def see(call: str, peer: Peer) -> None:
        said = Said(os.getpid(), call, peer.family, peer.host, peer.port)
        # Not by the socket's own methods, which the hook would see again.
        os.write(through.fileno(), msgspec.json.encode(said) + b"\n")

    egress.watch(see)


def main() -> None:
    means, descriptor, module, *arguments = sys.argv[1:]
    through = socket.socket(fileno=int(descriptor))
    os.set_inheritable(through.fileno(), False)
    if means == "kernel":
        notifications.tell(through)
        through.close()
    else:
        tell_by_hook(through)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
