"""Reading what strace writes of network calls: ``-f -v -s 0``, one line a call.

    712 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("…")}, 16) = 0
    712 sendmmsg(7, <unfinished ...>
    713 …
    712 <... sendmmsg resumed>[{msg_hdr={msg_name=…}}], 1, 0) = 1

``-s 0`` keeps what was sent out of it.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator

from freehold.trust.attempts import Attempt, Process
from freehold.trust.egress import UNKNOWN, Peer

CALLS = ("connect", "sendto", "sendmsg", "sendmmsg", "socket", "io_uring_setup")

_LINE = re.compile(r"(?P<thread>\d+) +(?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)")
_CALL = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)")
_REFUSED = re.compile(r"\) += -1 (EPERM|EACCES) ")

_PORT = re.compile(r"sin6?_port=htons\((\d+)\)")
_HOST = re.compile(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]*)"')
_PATH = re.compile(r'sun_path=@?"((?:[^"\\]|\\.)*)"')

_ORDINARY = ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK")


def prefix(output: str) -> list[str]:
    """The command to put before another one; ``output`` is the file to write."""
    options = ("-f", "-qq", "-v", "-s", "0", "-e", "signal=none", "-e", f"trace={','.join(CALLS)}")
    return ["strace", *options, "-o", output, "--"]


def usable() -> bool:
    """Whether strace is installed and may trace here."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(
        [*prefix("/dev/null"), "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


class Reader:
    """Lines to attempts. ``who`` names the process of a thread, at once: it may soon be gone."""

    def __init__(self, who: Callable[[int], Process]) -> None:
        self._who = who
        self._begun: dict[int, str] = {}

    def read(self, line: str) -> Iterator[Attempt]:
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return
        thread, rest = int(match["thread"]), match["rest"]
        if rest.endswith(_UNFINISHED):
            self._begun[thread] = rest.removesuffix(_UNFINISHED)
            return
        if resumed := _RESUMED.fullmatch(rest):
            rest = self._begun.pop(thread, f"{resumed['call']}(") + resumed["rest"]
        yield from self._attempts(thread, rest)

    def rest(self) -> Iterator[Attempt]:
        """Of calls that never returned."""
        while self._begun:
            yield from self._attempts(*self._begun.popitem())

    def _attempts(self, thread: int, text: str) -> Iterator[Attempt]:
        match = _CALL.match(text)
        if match is None:
            return
        call, arguments = match["call"], match["arguments"]
        note = "refused" if _REFUSED.search(arguments) else ""
        if call == "io_uring_setup":
            yield Attempt(self._who(thread), call, Peer(UNKNOWN), note)
        elif call == "socket":
            family = arguments.partition(",")[0]
            if note or family not in _ORDINARY:
                yield Attempt(self._who(thread), call, Peer(_family(family)), note)
        else:
            for peer in _peers(arguments):
                yield Attempt(self._who(thread), call, peer, note)


def _peers(arguments: str) -> Iterator[Peer]:
    for part in arguments.split("{sa_family=")[1:]:
        family = _family(re.split(r"[,}]", part, maxsplit=1)[0])
        host = _HOST.search(part) or _PATH.search(part)
        port = _PORT.search(part)
        yield Peer(family, host[1] if host else "", int(port[1]) if port else None)


def _family(name: str) -> int:
    return int(getattr(socket, name, UNKNOWN))
