"""Which native build is installed, told without loading it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from freehold.machine.compiler import find_compiler, native_flags

PACKAGE = "llama-cpp-python"


@dataclass(frozen=True)
class Build:
    """``identity`` changes with every rebuild and with the CPU it runs on."""

    version: str
    libraries: tuple[Path, ...]
    identity: str


def installed() -> Build | None:
    """The installed build, or None where llama-cpp-python is missing."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    libraries = tuple(sorted(path for path in folder.glob("lib*") if not path.is_symlink()))
    digest = hashlib.sha256(cpu_model().encode())
    for path in libraries:
        state = path.stat()
        digest.update(f"\n{path} {state.st_size} {state.st_mtime_ns}".encode())
    return Build(importlib.metadata.version(PACKAGE), libraries, digest.hexdigest())


@functools.cache
def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def rebuild_command(version: str) -> str:
    """A shell command that compiles llama.cpp again for this machine and compiler."""
    compiler = find_compiler()
    flags = native_flags(compiler) if compiler else ()
    # CMAKE_ARGS is split at spaces; a backslash keeps one inside a value.
    arguments = "-DCMAKE_CXX_FLAGS=" + "\\ ".join(flags) if flags else ""
    prefix = f"CMAKE_ARGS={shlex.quote(arguments)} " if arguments else ""
    return (
        f"{prefix}{shlex.quote(sys.executable)} -m pip install --force-reinstall --no-cache-dir "
        f"--no-deps --no-binary {PACKAGE} {PACKAGE}=={version}"
    )
