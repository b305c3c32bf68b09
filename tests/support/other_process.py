"""A second process on the same store, for tests of what two of them may do.

    with other_process("pull", home, endpoint, "hf:owner/repo") as child:
        child.wait_for("waiting")

Each line the child prints is one event; it ends with ``done`` when all went well.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[2]


class Child:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_for(self, word: str) -> str:
        """The next line that contains ``word``; fails the test if the child ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if word in line:
                return line
        raise AssertionError(f"the other process never said {word!r}")

    def tell(self) -> None:
        """Let a child that waits for a line go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL: no handler runs."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def other_process(command: str, *arguments: str | Path) -> Iterator[Child]:
    """Run one command of this module; ended by force when the block is left."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, command, *map(str, arguments)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def _say(text: str) -> None:
    print(text, flush=True)


def _pull(home: str, endpoint: str, reference: str) -> None:
    from freehold.domain.settings import Settings
    from freehold.weights.library import Library
    from tests.support.watching import Recorder

    class Speaking(Recorder):
        def note(self, text: str) -> None:
            _say(f"note: {text}")

    library = Library.open(Settings(home=Path(home), hub_endpoint=endpoint))
    library.pull(reference, Speaking())


def _hold_partial(home: str, key: str) -> None:
    """Hold one partial, as a download does, but not the lock of a pull."""
    from freehold.weights.store import Store

    with Store.open(Path(home)).partial(key, waiting=lambda: _say("waiting")):
        _say("holding")
        sys.stdin.readline()


def _migrate(home: str) -> None:
    """Open the store with a slow step to format 2 that must run once."""
    from freehold.weights import store

    def step(folder: Path) -> None:
        time.sleep(0.3)
        with (folder / "steps").open("a") as file:
            file.write("step\n")

    store.STORE_VERSION = 2
    store.MIGRATIONS = {1: step}
    _say("ready")
    sys.stdin.readline()
    store.Store.open(Path(home))


_COMMANDS: Mapping[str, Callable[..., None]] = {
    "pull": _pull,
    "hold-partial": _hold_partial,
    "migrate": _migrate,
}

if __name__ == "__main__":
    _COMMANDS[sys.argv[1]](*sys.argv[2:])
    _say("done")
