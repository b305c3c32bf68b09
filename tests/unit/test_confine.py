"""What a child gives up, tried in real processes that have given it up."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from freehold.process import confine
from freehold.process.kernel import this_machine
from freehold.process.trial import main as trial_main

pytestmark = pytest.mark.skipif(this_machine() is None, reason="Linux on x86-64 or ARM only")

_PREAMBLE = """
import ctypes, json, os, socket, sys, threading
from freehold.process.confine import confine

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"

def say(value):
    print(json.dumps(value))
"""


def child(code: str, *, before: str = "") -> Any:
    """What ``code`` says in a process that is confined; ``before`` runs while it is not."""
    source = "\n".join(
        (_PREAMBLE, textwrap.dedent(before), "confined = confine()", textwrap.dedent(code))
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", source], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def layers() -> dict[str, bool]:
    said: dict[str, bool] = child(
        "say({'network': confined.network.active, 'files': confined.files.active})"
    )
    return said


@pytest.fixture
def network(layers: dict[str, bool]) -> None:
    if not layers["network"]:
        pytest.skip("seccomp is not to be had here")


@pytest.fixture
def files(layers: dict[str, bool]) -> None:
    if not layers["files"]:
        pytest.skip("this kernel has no Landlock")


# The network


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"])
def test_no_network_socket(family: str) -> None:
    assert (
        child(f"""
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
        say([outcome(lambda: socket.socket(socket.{family}, kind)) for kind in kinds])
    """)
        == ["PermissionError"] * 3
    )


@pytest.mark.usefixtures("network")
def test_native_code_gets_none_either() -> None:
    assert child("""
        libc = ctypes.CDLL(None, use_errno=True)
        say([libc.socket(2, 1, 0), ctypes.get_errno()])
    """) == [-1, 1]


@pytest.mark.usefixtures("network")
def test_the_wire_works() -> None:
    assert child("""
        ours, theirs = socket.socketpair()
        ours.sendall(b"hello")
        say([theirs.recv(9).decode(), outcome(lambda: socket.socket(socket.AF_UNIX))])
    """) == ["hello", "done"]


@pytest.mark.usefixtures("network")
def test_no_helper_on_this_machine_is_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "helper")
    assert (
        child(
            f"""
        stream, datagram = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, 2)
        say([
            outcome(lambda: stream.connect({path!r})),
            outcome(lambda: datagram.sendto(b"x", {path + "2"!r})),
            outcome(lambda: datagram.sendmsg([b"x"], [], 0, {path + "2"!r})),
        ])
        """,
            before=f"""
        listening = socket.create_server({path!r}, family=socket.AF_UNIX)
        socket.socket(socket.AF_UNIX, 2).bind({path + "2"!r})
        """,
        )
        == ["PermissionError"] * 3
    )


@pytest.mark.usefixtures("network")
def test_threads_are_confined_those_there_before_too() -> None:
    assert (
        child(
            """
        go.set()
        early.join()
        late = threading.Thread(target=attempt)
        late.start()
        late.join()
        say(seen)
        """,
            before="""
        seen, go = [], threading.Event()
        def attempt():
            go.wait()
            seen.append(outcome(lambda: socket.socket(socket.AF_INET)))
        early = threading.Thread(target=attempt)
        early.start()
        """,
        )
        == ["PermissionError"] * 2
    )


@pytest.mark.usefixtures("network")
def test_what_a_child_starts_is_confined() -> None:
    assert (
        child("""
        if os.fork() == 0:
            say(outcome(lambda: socket.socket(socket.AF_INET)))
            sys.stdout.flush()
            os._exit(0)
        os.wait()
    """)
        == "PermissionError"
    )


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "name", ["io_uring_setup", "pidfd_getfd", "ptrace", "process_vm_writev", "process_vm_readv"]
)
def test_no_way_around(name: str) -> None:
    assert (
        child(f"""
        from freehold.process.kernel import call, this_machine
        arguments = [ctypes.c_ulong(0)] * 6
        say(outcome(lambda: call(this_machine(), {name!r}, *arguments)))
    """)
        == "PermissionError"
    )


@pytest.mark.usefixtures("network")
def test_the_second_set_of_calls_does_not_exist() -> None:
    machine = this_machine()
    if machine is None or machine.foreign_from is None:
        pytest.skip("this architecture has one set")
    number = machine.foreign_from + machine.calls["socket"]
    assert child(f"""
        libc = ctypes.CDLL(None, use_errno=True)
        say([libc.syscall(ctypes.c_long({number}), 2, 1, 0), ctypes.get_errno()])
    """) == [-1, 38]


@pytest.mark.usefixtures("network")
def test_only_the_network_of_a_server_that_is_offline() -> None:
    """It keeps the socket it has, and may ask and be asked."""
    assert child(
        """
        client.sendall(b"x")
        connected, _ = listening.accept()
        say([
            connected.recv(1).decode(),
            layer.active,
            outcome(lambda: socket.socket(socket.AF_INET)),
            outcome(lambda: made.connect(("127.0.0.1", 9))),
            outcome(lambda: made.connect(("a-name.invalid", 9))),
            outcome(lambda: open(os.devnull, "w")),
        ])
        """,
        before="""
        from freehold.process.confine import deny_network
        listening = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listening.getsockname())
        made = socket.socket()
        layer = deny_network()
        confine = lambda: None
        """,
    ) == ["x", True, "PermissionError", "PermissionError", "gaierror", "done"]


# Files


@pytest.mark.usefixtures("files")
def test_nothing_is_written(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("before")
    (tmp_path / "folder").mkdir()
    assert (
        child(f"""
        there, folder = {str(there)!r}, {str(tmp_path)!r}
        say([outcome(attempt) for attempt in (
            lambda: open(folder + "/new", "w"),
            lambda: open(there, "w"),
            lambda: open(there, "r+"),
            lambda: open(there, "a"),
            lambda: os.unlink(there),
            lambda: os.rename(there, folder + "/other"),
            lambda: os.symlink(there, folder + "/link"),
            lambda: os.link(there, folder + "/hard"),
            lambda: os.mkdir(folder + "/made"),
            lambda: os.rmdir(folder + "/folder"),
            lambda: os.mkfifo(folder + "/pipe"),
            lambda: socket.socket(socket.AF_UNIX).bind(folder + "/socket"),
        )])
    """)
        == ["PermissionError"] * 12
    )
    assert there.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"there", "folder"}


@pytest.mark.usefixtures("files")
def test_no_program_is_started() -> None:
    assert child("say(outcome(lambda: os.execv(sys.executable, ['python'])))") == "PermissionError"


@pytest.mark.usefixtures("files")
def test_everything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.write_text("weights")
    assert child(f"""
        import mmap
        with open({str(path)!r}, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        say([mapped[:].decode(), bool(open("/proc/self/statm").read()), os.listdir("/") != []])
    """) == ["weights", True, True]


@pytest.mark.usefixtures("files")
def test_what_programs_throw_away_is_thrown_away() -> None:
    assert child('say(outcome(lambda: open(os.devnull, "w").write("x")))') == "done"


@pytest.mark.usefixtures("files")
def test_a_late_import_works_without_its_cache(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("value = 7")
    said = child(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import late
        say(late.value)
    """)
    assert said == 7
    assert not (tmp_path / "__pycache__").exists()


def test_a_thread_that_was_there_before_is_owned_up_to() -> None:
    said = child(
        """
        go.set()
        say([confined.files.active, confined.files.detail])
        """,
        before="""
        go = threading.Event()
        threading.Thread(target=go.wait).start()
        """,
    )
    assert not said[0]


# Telling the truth


def test_a_kernel_that_has_neither() -> None:
    """Here another filter takes both away; a child starts all the same and says so."""
    said = child(
        "say([confined.network.active, confined.network.detail, confined.files.detail])",
        before="""
        from freehold.process import seccomp
        from freehold.process.kernel import this_machine
        rules = (
            seccomp.Rule("seccomp", seccomp.refuse(22)),
            seccomp.Rule("landlock_create_ruleset", seccomp.refuse(38)),
        )
        code = seccomp.compile_filter(this_machine(), rules)
        seccomp.install(this_machine(), code, seccomp.ALL_THREADS)
        """,
    )
    assert said == [False, "the kernel refused: Invalid argument", "this kernel has no Landlock"]


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "this_machine", lambda: None)
    confined = confine.confine.__wrapped__()
    assert not confined.network.active
    assert not confined.files.active
    assert sys.platform in confined.files.detail


@pytest.mark.usefixtures("network", "files")
def test_the_trial_believes_no_claim() -> None:
    source = """
from freehold.process import trial
from freehold.process.confine import Confinement, Layer
trial.confine = lambda: Confinement(Layer(True, "seccomp"), Layer(True, "Landlock"))
trial.main([])
"""
    result = subprocess.run(
        [sys.executable, "-P", "-c", source], capture_output=True, text=True, check=True
    )
    said = json.loads(result.stdout)
    assert not said["network"]["active"]
    assert "AF_INET" in said["network"]["detail"]
    assert not said["files"]["active"]


@pytest.mark.usefixtures("network", "files")
def test_the_trial_of_a_confined_process() -> None:
    assert trial_main.__module__ == "freehold.process.trial"
    result = subprocess.run(
        [sys.executable, "-P", "-m", trial_main.__module__],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {layer["active"] for layer in json.loads(result.stdout).values()} == {True}
