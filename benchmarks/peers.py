"""What ours is compared with, built from the same source with the same flags.

The pinned llama-cpp-python vendors the llama.cpp we run. Its source archive is
fetched, and llama-server and llama-batched-bench are built from it the way its own
build (scikit-build-core) builds our library: Release, llama.cpp's own defaults, the
C++ flags `freehold.machine.compiler` finds, and what ``CMAKE_ARGS`` adds. Its Python server
runs in an environment of its own, on our compiled library itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.weights import CACHE, ROOT, BenchmarkError
from freehold.machine.compiler import find_compiler, native_flags

PACKAGE = "llama-cpp-python"
TARGETS = ("llama-server", "llama-batched-bench")
_OFF = (
    "LLAMA_CURL",
    "LLAMA_OPENSSL",
    "LLAMA_BUILD_UI",
    "LLAMA_USE_PREBUILT_UI",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_APP",
)


@dataclass(frozen=True)
class Peers:
    """Everything that was built. ``build_flags`` are CMake's, for the report."""

    version: str
    server: Path
    batched_bench: Path
    python: Path
    build_flags: tuple[str, ...]


def build_peers() -> Peers:
    """Fetch and build what is not there yet; seconds when everything is."""
    version = pinned_version(ROOT / "uv.lock")
    archive = _sdist(version)
    source = CACHE / f"llama_cpp_python-{version}"
    _unpack(archive, source)
    flags = _cmake_flags(version)
    build = CACHE / f"build-{version}"
    _build(source / "vendor" / "llama.cpp", build, flags)
    python = _server_environment(source / "pyproject.toml", version)
    binaries = build / "bin"
    return Peers(version, binaries / TARGETS[0], binaries / TARGETS[1], python, flags)


def pinned_version(lock: Path) -> str:
    """The version of llama-cpp-python this project runs."""
    return str(_locked(lock)["version"])


def _locked(lock: Path) -> Mapping[str, Any]:
    packages = tomllib.loads(lock.read_text())["package"]
    return next(package for package in packages if package["name"] == PACKAGE)


def _sdist(version: str) -> Path:
    """The source archive, by pip, checked against the digest in the lock file."""
    name = f"llama_cpp_python-{version}.tar.gz"
    folder = CACHE / "sdist"
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        digest = _locked(ROOT / "uv.lock")["sdist"]["hash"]
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{PACKAGE}=={version} --hash={digest}\n")
        _run(
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
            *("--no-deps", "--no-binary", PACKAGE, "--require-hashes"),
            *("--dest", str(folder), "--requirement", str(wanted)),
            what=f"fetching the source of {PACKAGE} {version}",
        )
    return folder / name


def _unpack(archive: Path, target: Path) -> None:
    if target.exists():
        return
    partial = target.with_name("unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as opened:
        opened.extractall(partial, filter="data")
    (partial / target.name).rename(target)
    partial.rmdir()


def _cmake_flags(version: str) -> tuple[str, ...]:
    compiler = find_compiler(os.environ.get("CXX") or "c++")
    extra = " ".join(native_flags(compiler)) if compiler else ""
    return (
        "-DCMAKE_BUILD_TYPE=Release",
        *([f"-DCMAKE_CXX_FLAGS={extra}"] if extra else []),
        *(f"-D{name}=OFF" for name in _OFF),
        f"-DLLAMA_BUILD_COMMIT=sdist-{version}",  # else that of the repository around it
        "-DLLAMA_BUILD_NUMBER=0",
        *shlex.split(os.environ.get("CMAKE_ARGS", "")),
    )


def _build(source: Path, build: Path, flags: Sequence[str]) -> None:
    """Configure and compile, unless this very configuration has been built already."""
    stamp = build / "built-with"
    if stamp.exists() and stamp.read_text() == "\n".join(flags):
        return
    cmake, ninja = _tools()
    print("Building llama-server and llama-batched-bench: minutes.", file=sys.stderr, flush=True)
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()
    _run(
        *(cmake, "-S", str(source), "-B", str(build), *generator, *flags),
        what="configuring llama.cpp",
    )
    jobs = str(os.cpu_count() or 1)
    _run(
        *(cmake, "--build", str(build), "--parallel", jobs, "--target", *TARGETS),
        what="building llama.cpp",
    )
    stamp.write_text("\n".join(flags))


def _tools() -> tuple[str, str | None]:
    """CMake and a build program: the machine's, else from the package index."""
    found = shutil.which("cmake")
    if found:
        return found, shutil.which("ninja")
    tools = CACHE / "tools"
    if not (tools / "bin" / "cmake").exists():
        _make_environment(tools, ["cmake", "ninja"])
    return str(tools / "bin" / "cmake"), str(tools / "bin" / "ninja")


def _server_environment(project: Path, version: str) -> Path:
    """llama-cpp-python's server: its own dependencies, and our compiled `llama_cpp` itself."""
    folder = CACHE / f"server-{version}"
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python3*/site-packages") if python.exists() else (None,)
    if packages is None or not (packages / "llama_cpp").exists():
        described = tomllib.loads(project.read_text())["project"]
        needed = described["dependencies"] + described["optional-dependencies"]["server"]
        _make_environment(folder, needed)
        (packages,) = folder.glob("lib/python3*/site-packages")
        specification = find_spec("llama_cpp")
        assert specification is not None
        assert specification.origin is not None
        (packages / "llama_cpp").symlink_to(Path(specification.origin).parent)
    return python


def _make_environment(folder: Path, packages: Sequence[str]) -> None:
    _run(
        *(sys.executable, "-m", "venv", "--clear", str(folder)),
        what=f"making {folder.name}",
    )
    _run(
        *(str(folder / "bin" / "python"), "-m", "pip", "install"),
        *("--disable-pip-version-check", "--quiet", *packages),
        what=f"installing what {folder.name} needs",
    )


def _run(*command: str, what: str) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise BenchmarkError(f"{what.capitalize()} failed ({shlex.join(command)}):\n{tail}")


if __name__ == "__main__":
    print(build_peers())
