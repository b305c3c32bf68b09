"""The installed `freehold` command, run as a person runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

FREEHOLD = str(Path(sys.executable).with_name("freehold"))


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment, with a store of its own and nothing of ours set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FREEHOLD_", "HF_"))
    }
    return {**kept, "FREEHOLD_HOME": str(home), **(extra or {})}


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def freehold(
    home: Path,
    *arguments: str,
    stdin: str | bytes | None = None,
    extra: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> Result:
    """Run one command to its end. Without ``stdin`` there is none (``/dev/null``)."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL}
    if stdin is not None:
        given = {"input": stdin.encode() if isinstance(stdin, str) else stdin}
    done = subprocess.run(
        [FREEHOLD, *arguments],
        capture_output=True,
        env=environment(home, extra),
        timeout=timeout,
        check=False,
        **given,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def wait_until_gone(processes: Sequence[psutil.Process], seconds: float = 5.0) -> None:
    """Fail if any of them still runs after ``seconds``; a zombie has ended."""
    end = time.monotonic() + seconds
    while any(_runs(process) for process in processes):
        assert time.monotonic() < end, "a child outlived its gateway"
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    url: str


@contextlib.contextmanager
def serving(
    home: Path, *arguments: str, extra: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """`freehold serve` on a free port, up when this is entered, stopped by SIGTERM after."""
    process = subprocess.Popen(
        [FREEHOLD, "serve", "--port", "0", *arguments],
        env=environment(home, extra),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        said, match = "", None
        while match is None and (line := process.stderr.readline().decode()):
            said += line
            match = re.search(r"Serving on (http://\S+)", line)
        assert match is not None, said
        yield Server(process, match[1])
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
