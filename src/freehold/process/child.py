"""The gateway's side of a child process: start it, watch it, end it.

A child is a module of ours run with `python -P -m`, with one end of a socket pair
and nothing else inherited. It belongs to its own session, so a Ctrl-C in the
terminal reaches only us, it dies when we die (`inside.die_with_parent`), and it can reach
nothing else (`confine`).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from freehold.domain.settings import environment
from freehold.process.frames import AsyncChannel

log = logging.getLogger(__name__)

In = TypeVar("In")

_STDERR_LINES_KEPT = 40
_MAX_STDERR_LINE = 64 * 1024

# What a child may inherit. Everything else, tokens above all, stays here.
_INHERITED = (
    "CUDA_VISIBLE_DEVICES",
    "DYLD_LIBRARY_PATH",
    "GOMP_SPINCOUNT",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "PATH",
    "PYTHONOPTIMIZE",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
)

# Said unless the operator says something else. Threads that decode wait for each other after every
# matrix, and libgomp lets them spin for it as good as for ever. If anything else wants a processor,
# two of them soon spin on one, each through whole time slices: beside one busy program, 60 tokens
# then took 6 s on two cores, and 0.5 s with this. Alone it makes no difference to a model of 0.5
# billion parameters, and costs one of 0.27 a sixth where waking is slow (docs/operations.md).
_UNLESS_SAID = {"GOMP_SPINCOUNT": "1000"}

# Said to every child: no debugger or backtrace on an abort, no calls home. OpenBLAS would start
# threads when numpy is imported, before the child confines itself (`confine`).
_ALWAYS = {
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GGML_NO_BACKTRACE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def child_environment(
    inherited: Mapping[str, str], wanted: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """The environment a child gets: an allow-list of ours plus what keeps it quiet. ``wanted`` is
    what this child should have where the operator has said nothing of it."""
    kept = {name: inherited[name] for name in _INHERITED if name in inherited}
    return {**_UNLESS_SAID, **wanted, **kept, **_ALWAYS}


def step_back(pid: int, niceness: int) -> None:
    """Make a child of ours nicer than we are by ``niceness``.

    Linux shares processors out between sessions first, where ``sched_autogroup_enabled`` is on:
    then the niceness that counts is that of the session, which each child has to itself.
    """
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + niceness, 19)
    with contextlib.suppress(ProcessLookupError):  # gone already
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(OSError):  # no such scheduling here
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def describe_exit(returncode: int) -> str:
    """``exited with status 3`` or ``was ended by SIGKILL``."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def last_line(text: str) -> str:
    """The last that a program said, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"


class Running(Protocol):
    """A process, as asyncio has them. ``returncode`` None: it runs."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    @property
    def stderr(self) -> asyncio.StreamReader | None: ...

    async def wait(self) -> int: ...

    def kill(self) -> None: ...


class Child(Generic[In]):
    """One running child. Owned by the event loop that started it."""

    def __init__(
        self,
        name: str,
        process: Running,
        channel: AsyncChannel[In],
        heard: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._heard = heard
        self.channel = channel
        self._process = process
        self._stderr: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES_KEPT)
        self._stderr_task = asyncio.create_task(self._keep_stderr(), name=f"{name} stderr")

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        *arguments: str,
        incoming: Any,
        heard: Callable[[str], None] | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Child[In]:
        """Start ``module``; it finds its socket through `inside.connect`. ``heard`` is told each
        line of its stderr; ``variables`` are as ``wanted`` in `child_environment`.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                module,
                str(theirs.fileno()),
                *arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=_MAX_STDERR_LINE,
                env=child_environment(environment(), variables),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        channel = await AsyncChannel[In].open(ours, incoming)
        return cls(name, process, channel, heard)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def last_words(self) -> str:
        """The end of the child's stderr: for logs and for finding an error line."""
        return "\n".join(self._stderr)

    async def wait(self) -> int:
        returncode = await self._process.wait()
        await self._stderr_task
        return returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self, grace: float) -> int:
        """Close the wire, wait ``grace`` seconds for the child to leave, then kill it."""
        await self.channel.close()
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self.kill()
            return await self.wait()

    async def discard(self) -> None:
        """Kill the child and wait until nothing of it is left."""
        self.kill()
        await self.channel.close()
        await self.wait()

    async def _keep_stderr(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the limit: drop it, keep reading
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._stderr.append(text)
            if self._heard is not None:
                self._heard(text)
            log.debug("%s: %s", self.name, text)
