"""The servers: how each is started, when it is up, what memory it takes, how it ends.

All run one model file with `CONTEXT` tokens a sequence and all of the machine's
cores. Everything they are told beyond that stands here, in one place.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers import Peers
from benchmarks.weights import ROOT, BenchmarkError, freehold_command, freehold_environment
from benchmarks.workloads import CONTEXT

SLOTS = 16
THREADS = os.cpu_count() or 1
_START_SECONDS = 300
_STOP_SECONDS = 30
_LOOK_EVERY = 0.5

# One configuration of ours for all workloads: what every user has, with room for 16 clients.
OURS = ("--parallel", str(SLOTS), "--context", str(CONTEXT), "--threads", str(THREADS))

# Other settings of ours, to see whether the defaults are the right ones. Not part of a plain run.
OUR_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "ours flash": ("--flash-attention",),
    "ours flash bf16": ("--flash-attention", "--cache-type", "bf16"),
    "ours flash q8_0": ("--flash-attention", "--cache-type", "q8_0"),
    "ours unified": ("--cache-layout", "unified"),
    "ours unified bf16": ("--cache-layout", "unified", "--cache-type", "bf16"),
}

# llama-server keeps its defaults (flash attention decided by itself, f16 cache) except for
# the number of slots and their context. The others are what its users try on a CPU.
_SERVER = ("-np", str(SLOTS), "-c", str(SLOTS * CONTEXT), "-t", str(THREADS))
DEFAULT = "llama-server"
CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "llama-server no-flash": ("-fa", "off", "--no-kv-unified"),
    "llama-server q8-cache": ("-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0", "--no-kv-unified"),
    "llama-server draft": (
        *("-fa", "off", "--no-kv-unified", "-b", "512", "-ub", "512"),
        *("--cache-reuse", "256", "--spec-type", "ngram-simple"),
    ),
}

# Without these its second client cuts the first one's answer off, and it computes logits for
# every token of a prompt.
_PYTHON = ("--interrupt_requests", "false", "--logits_all", "false")


@dataclass(frozen=True)
class Server:
    """A program to be measured, before it is started; ``{port}`` is put in then."""

    name: str
    command: tuple[str, ...]
    health: str
    environment: Mapping[str, str]

    def flags(self, model: Path) -> str:
        """The command as the report shows it: without what differs between machines."""
        words = [Path(word).name if word.startswith("/") else word for word in self.command]
        return " ".join("MODEL" if word == model.name else word for word in words)


def all_servers(model: Path, peers: Peers) -> dict[str, Server]:
    """Every server by its name, with every set of flags."""
    own = (freehold_command(), "serve", str(model), "--port", "{port}", *OURS, "--offline")
    ours = {
        name: Server(name, (*own, *flags), "/v1/models", freehold_environment())
        for name, flags in {"ours": (), **OUR_SETTINGS}.items()
    }
    python = Server(
        "llama-cpp-python",
        (
            *(str(peers.python), "-m", "llama_cpp.server", "--model", str(model)),
            *("--host", "127.0.0.1", "--port", "{port}", "--n_ctx", str(CONTEXT)),
            *("--n_threads", str(THREADS), "--n_threads_batch", str(THREADS), *_PYTHON),
        ),
        "/v1/models",
        _plain_environment(),
    )
    found = {**ours, "llama-cpp-python": python}
    for name, flags in {DEFAULT: (), **CANDIDATES}.items():
        command = (str(peers.server), "-m", str(model), "--port", "{port}", *_SERVER, *flags)
        found[name] = Server(name, command, "/health", _plain_environment())
    return found


def _plain_environment() -> dict[str, str]:
    """Without the variables llama.cpp's tools and pydantic would read as settings."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name in kept}


class Watch:
    """What a server takes while it is measured, and what others take from the machine."""

    def __init__(self, process: int) -> None:
        self.peak_memory = 0.0
        self._roots = [psutil.Process(process)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self.begin()

    def begin(self) -> None:
        """Count the others' processor time from now on."""
        self._began = time.monotonic()
        self._used = _busy_seconds() - self._own_seconds()

    def join(self, other: Watch) -> None:
        """What another server takes is part of this one's: it works for it."""
        self._roots += other._roots

    def others(self) -> float:
        """The share of the machine's processor time that was neither the server's nor ours."""
        used = _busy_seconds() - self._own_seconds() - self._used
        passed = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, used / passed)

    def look(self) -> None:
        """Look at the memory now."""
        self.peak_memory = max(self.peak_memory, sum(self._of_all(_resident)))

    def stop(self) -> None:
        """End the watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            self.look()

    def _own_seconds(self) -> float:
        return sum(self._of_all(_seconds)) + _seconds(psutil.Process())

    def _of_all(self, ask: Callable[[psutil.Process], float]) -> list[float]:
        found: list[float] = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(ask(process))
        return found

    def processes(self) -> list[psutil.Process]:
        """The server's, with all it has started."""
        found: list[psutil.Process] = []
        for root in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [root, *root.children(recursive=True)]
        return found


def _resident(process: psutil.Process) -> float:
    return float(process.memory_info().rss)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _busy_seconds() -> float:
    """Of all processors since the machine started, what a host took from it included."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - counted_twice)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    watch: Watch


@contextlib.contextmanager
def running(server: Server, log: Path) -> Iterator[Running]:
    """``server``, answering while this is entered. What goes wrong meanwhile names it."""
    port = _free_port()
    command = [word.replace("{port}", str(port)) for word in server.command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(server.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    watch = Watch(process.pid)
    try:
        _wait_for(server, process, port)
        yield Running(port, watch)
    except BenchmarkError as error:
        time.sleep(0.5)  # a connection closes before its process has ended
        status = process.poll()
        ending = "still runs" if status is None else f"ended with status {status}"
        raise BenchmarkError(f"{server.name} ({ending}): {error}\n{_tail(log)}") from error
    finally:
        watch.stop()
        _end(process)


def _wait_for(server: Server, process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise BenchmarkError("It did not start.")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", server.health)
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.1)
    raise BenchmarkError(f"It did not answer within {_START_SECONDS} seconds.")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, lines: int = 15) -> str:
    text: Sequence[str] = log.read_text("utf-8", "replace").splitlines()[-lines:]
    return "\n".join(["The end of its log:", *(f"  {line}" for line in text)])
