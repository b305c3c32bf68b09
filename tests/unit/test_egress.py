"""Which addresses leave this machine, how they are read, and the hook that refuses them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from freehold.trust.attempts import Attempt, Process, short_command
from freehold.trust.egress import UNKNOWN, Peer, peer_at
from freehold.trust.strace import Reader

INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


@pytest.mark.parametrize(
    ("family", "host", "port", "leaves"),
    [
        (INET, "127.0.0.1", 7333, False),
        (INET, "127.9.9.9", 1, False),
        (INET, "localhost", 1, False),
        (INET, "0.0.0.0", 1, False),
        (INET6, "::1", 1, False),
        (INET6, "::ffff:127.0.0.1", 1, False),
        (INET, "", None, True),
        (INET, "192.0.2.1", 443, True),
        (INET, "10.0.0.1", 443, True),
        (INET, "169.254.169.254", 80, True),
        (INET, "huggingface.co", 443, True),
        (INET, "localhost.example.org", 443, True),
        (INET, "127.0.0.1.example.org", 443, True),
        (INET, "2130706433", 443, True),
        (INET6, "2001:db8::1", 443, True),
        (INET6, "fe80::1%lo", 443, True),
        (INET6, "::ffff:192.0.2.1", 443, True),
        # A name server here asks others.
        (INET, "127.0.0.53", 53, True),
        (UNIX, "/run/systemd/resolve/io.systemd.Resolve", None, True),
        (UNIX, "/var/run/avahi-daemon/socket", None, True),
        (UNIX, "/tmp/socket", None, False),
        (UNIX, "", None, False),
        (16, "", None, False),  # netlink: the kernel
        (17, "", None, True),  # packets
        (40, "", None, True),  # the machine outside a virtual one
        (UNKNOWN, "", None, True),
    ],
)
def test_what_leaves(family: int, host: str, port: int | None, leaves: bool) -> None:
    assert Peer(family, host, port).leaves is leaves


def test_addresses_as_python_writes_them() -> None:
    assert peer_at(INET, ("192.0.2.1", 80)) == Peer(INET, "192.0.2.1", 80)
    assert peer_at(INET6, (b"::1", 80, 0, 0)) == Peer(INET6, "::1", 80)
    assert peer_at(UNIX, b"\0abstract") == Peer(UNIX, "\0abstract")
    assert peer_at(40, (2, 3)).leaves


def hooked(attempt: str) -> str:
    """How an attempt ends where the hook is on: an error's class, or ``done``."""
    source = f"""
import asyncio, http.client, socket, sys, urllib.request
from freehold.trust.egress import refuse_egress
refuse_egress()
refuse_egress()
listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
try:
    {attempt}
    print("done")
except Exception as error:
    print(type(error).__name__)
"""
    result = subprocess.run(
        [sys.executable, "-P", "-c", source], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


@pytest.mark.parametrize(
    "attempt",
    [
        'socket.socket().connect(("192.0.2.1", 80))',
        'socket.socket().connect_ex(("192.0.2.1", 80))',
        'socket.create_connection(("192.0.2.1", 80), 1)',
        'socket.create_connection(("example.invalid", 80), 1)',
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))',
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("192.0.2.1", 5))',
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 53))',
        'socket.getaddrinfo("example.invalid", 80)',
        'socket.getaddrinfo(b"example.invalid", 80)',
        'socket.gethostbyname("example.invalid")',
        'socket.gethostbyname_ex("example.invalid")',
        'socket.gethostbyaddr("192.0.2.1")',
        'socket.getnameinfo(("192.0.2.1", 80), 0)',
        'http.client.HTTPSConnection("example.invalid").request("GET", "/")',
        'asyncio.run(asyncio.open_connection("192.0.2.1", 80))',
        'asyncio.run(asyncio.open_connection("example.invalid", 80))',
    ],
)
def test_the_hook_refuses(attempt: str) -> None:
    assert hooked(attempt) == "OfflineRefused"


@pytest.mark.parametrize(
    "attempt",
    [
        'socket.create_connection(("127.0.0.1", port), 1)',
        'socket.create_connection(("localhost", port), 1)',
        'asyncio.run(asyncio.open_connection("127.0.0.1", port))',
        "socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE)",
        'socket.getaddrinfo("192.0.2.1", 80)',
        "pair = socket.socketpair(); pair[0].sendall(b'x')",
        "pair = socket.socketpair(); pair[0].sendmsg([b'x'])",
        'socket.create_server(("0.0.0.0", 0))',
    ],
)
def test_the_hook_lets_this_machine_talk_to_itself(attempt: str) -> None:
    assert hooked(attempt) == "done"


def test_the_sentence_says_whom_and_what_to_do() -> None:
    source = """
import socket
from freehold.domain.errors import OfflineRefused
from freehold.trust.egress import refuse_egress
refuse_egress()
try:
    socket.socket().connect(("192.0.2.1", 80))
except OfflineRefused as error:
    print(error.message, error.hint)
"""
    said = subprocess.run(
        [sys.executable, "-P", "-c", source], capture_output=True, text=True, check=True
    ).stdout
    assert "192.0.2.1 port 80" in said
    assert "--offline" in said


# What strace writes


def read(*lines: str) -> list[Attempt]:
    reader = Reader(lambda thread: Process(thread, "python"))
    found = [attempt for line in lines for attempt in reader.read(line)]
    return [*found, *reader.rest()]


_V4 = '{sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.1")}'
_V6 = (
    "{sa_family=AF_INET6, sin6_port=htons(53), sin6_flowinfo=htonl(0), "
    'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}'
)


@pytest.mark.parametrize(
    ("line", "peer"),
    [
        (f"7 connect(3, {_V4}, 16) = -1 EINPROGRESS (In progress)", Peer(INET, "192.0.2.1", 80)),
        (f"7 connect(5, {_V6}, 28) = 0", Peer(INET6, "2001:db8::1", 53)),
        (f'7 sendto(4, ""..., 6, 0, {_V4}, 16) = 6', Peer(INET, "192.0.2.1", 80)),
        (f"7 sendmsg(4, {{msg_name={_V4}, msg_namelen=16}}, 0) = 6", Peer(INET, "192.0.2.1", 80)),
        ('7 connect(6, {sa_family=AF_UNIX, sun_path="/a, {b}"}, 20) = 0', Peer(UNIX, "/a, {b}")),
        ('7 connect(6, {sa_family=AF_UNIX, sun_path=@"abs"}, 6) = 0', Peer(UNIX, "abs")),
        ("7 connect(7, {sa_family=AF_VSOCK, svm_cid=VMADDR_CID_HOST}, 16) = 0", Peer(40)),
        ('7 connect(7, {sa_family=0x7b, sa_data=""}, 16) = 0', Peer(UNKNOWN)),
        ("7 socket(AF_PACKET, SOCK_RAW, htons(0)) = 3", Peer(17)),
        ("7 io_uring_setup(8, {flags=0}) = 4", Peer(UNKNOWN)),
    ],
)
def test_one_line_of_strace(line: str, peer: Peer) -> None:
    assert [attempt.peer for attempt in read(line)] == [peer]


def test_many_messages_in_one_call() -> None:
    first, second = (f"{{msg_hdr={{msg_name={name}, msg_namelen=16}}}}" for name in (_V4, _V6))
    hosts = [attempt.peer.host for attempt in read(f"7 sendmmsg(7, [{first}, {second}], 2, 0) = 2")]
    assert hosts == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize(
    "line",
    [
        "7 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_IP) = 3",
        '7 sendto(4, ""..., 6, MSG_NOSIGNAL, NULL, 0) = 6',
        "7 sendmsg(4, {msg_name=NULL, msg_namelen=0}, 0) = 6",
        "7 +++ exited with 0 +++",
        "",
        "nonsense",
    ],
)
def test_what_is_no_attempt(line: str) -> None:
    assert read(line) == []


def test_a_refused_socket_is_one() -> None:
    (attempt,) = read("7 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = -1 EPERM (Operation not)")
    assert attempt.leaves
    assert attempt.note == "refused"


def test_calls_of_two_threads_that_cross() -> None:
    found = read(
        f"7 connect(3, {_V4}, 16 <unfinished ...>",
        "8 sendmmsg(7,  <unfinished ...>",
        "7 <... connect resumed>) = 0",
        f"8 <... sendmmsg resumed>[{{msg_hdr={{msg_name={_V6}}}}}], 1, 0) = 1",
        f"9 connect(3, {_V4}, 16 <unfinished ...>",
    )
    assert [(attempt.process.pid, attempt.peer.host) for attempt in found] == [
        (7, "192.0.2.1"),
        (8, "2001:db8::1"),
        (9, "192.0.2.1"),
    ]


@pytest.mark.parametrize(
    ("words", "short"),
    [
        (
            ["/usr/bin/python3", "-P", "-m", "freehold.text.child", "5"],
            "python3 -m freehold.text.child",
        ),
        (
            ["python3", "-P", "-m", "freehold.trust.watched", "kernel", "5", "freehold.cli.main"],
            "python3 -m freehold.cli.main",
        ),
        (["/usr/bin/python3", "/home/me/bin/freehold", "serve"], "python3 freehold"),
        (["/usr/bin/curl", "-s"], "curl"),
    ],
)
def test_processes_in_words(words: list[str], short: str) -> None:
    assert short_command(words) == short


def test_an_attempt_as_data_is_json() -> None:
    attempt = Attempt(Process(7, ""), "connect", Peer(INET, "192.0.2.1", 80))
    said: Any = json.loads(json.dumps(attempt.as_data()))
    assert said["family"] == "AF_INET"
    assert said["leaves"] is True
    assert "a process that is gone (7)" in str(attempt)
