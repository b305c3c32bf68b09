"""However the gateway dies, nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.endless import write_endless_llama

pytestmark = pytest.mark.native

_ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def family(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A parent with a text child and a worker, all at work."""
    model = write_endless_llama(folder / "tiny.gguf")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.parent", str(model)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(pid) for pid in json.loads(parent.stdout.readline())]
        modules = {child.cmdline()[3] for child in children}
        assert modules == {"freehold.text.child", "freehold.engines.llamacpp.worker"}
        try:
            yield parent, children
        finally:
            parent.kill()


def left_of(children: list[psutil.Process]) -> list[psutil.Process]:
    """Who still runs after five seconds; they are ended then."""
    _, alive = psutil.wait_procs(children, timeout=5)
    left = [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    for child in left:
        child.kill()
    return left


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_children_die_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    with family(tmp_path) as (parent, children):
        parent.send_signal(how)
        parent.wait(5)
        assert left_of(children) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of the dead")
def test_also_those_too_busy_to_notice(tmp_path: Path) -> None:
    with family(tmp_path) as (parent, children):
        for child in children:
            child.suspend()
        parent.kill()
        parent.wait(5)
        assert left_of(children) == []
