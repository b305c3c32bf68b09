"""Installing vLLM: the steps of `freehold engine install`, each of which can be repeated.

    room? ──▶ environment ──▶ PyTorch ──▶ vLLM ──▶ unwanted out ──▶ tried ──▶ recorded

Whatever ends it in between, pip ends with it, and the next run goes on: pip finds what it has
downloaded where the index lets it be kept, and nothing counts as installed before the record is
written.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.domain.errors import DiskFull, EngineInstallFailed, OfflineRefused
from freehold.engines.vllm.installation import PYTORCH_INDEX, VERSION, Build, Installed, Place
from freehold.machine.computer import Processor
from freehold.process.child import last_line
from freehold.process.inside import die_with_parent
from freehold.weights.files import write_atomically

# What its smallest kernels are compiled for, where processors are Intel's and AMD's.
_X86 = ("x86_64", "AMD64", "amd64")
_LEAST = "avx2"
# What of pip's output tells a person how far it is.
_TELLING = ("Collecting ", "Downloading ", "Using cached ", "Installing collected", "ERROR:")
# What pip says between two tries to reach its index.
_UNREACHED = "connection broken by"
_TRIAL = "import torch, vllm; from vllm import SamplingParams; print(torch.__version__)"


@dataclass(frozen=True)
class Installer:
    """``say`` is told each step, ``environ`` is what pip is run with, ``processor`` what it is to
    run on.
    """

    place: Place
    build: Build
    say: Callable[[str], None]
    environ: Mapping[str, str]
    offline: bool = False
    processor: Processor | None = None

    def install(self) -> Installed:
        """Raises `DiskFull`, `OfflineRefused` or `EngineInstallFailed`. What is here is kept,
        unless it is of another version.
        """
        found = self.place.installed()
        here = found is not None and self.place.python.exists()
        if found is not None and here and (found.version, found.build) == (VERSION, self.build):
            return found
        if self.offline:
            raise OfflineRefused(
                "Installing an engine fetches it, and freehold is offline.",
                hint="Leave out --offline (and FREEHOLD_OFFLINE).",
            )
        self._require_instructions()
        with self.place.locked() as lock:
            return self._installed(lock)

    def _require_instructions(self) -> None:
        """Gigabytes that could not be run are not fetched."""
        here = self.processor
        if self.build is not Build.CPU or here is None or here.architecture not in _X86:
            return
        if here.instruction_sets and _LEAST not in here.instruction_sets:
            raise EngineInstallFailed(
                f"vLLM without a card needs a processor with {_LEAST.upper()}; this one "
                f"({here.name}) has none.",
                hint="llama.cpp is built in and runs here.",
            )

    def _installed(self, lock: int) -> Installed:
        self._require_room()
        self.place.record.unlink(missing_ok=True)
        # Another build or version would lie in this one; and what was broken off may have left a
        # package that looks whole and is not. What was downloaded is kept.
        shutil.rmtree(self.place.environment, ignore_errors=True)
        shutil.rmtree(self.place.temporary, ignore_errors=True)
        self.place.downloads.mkdir(parents=True, exist_ok=True)
        self.place.temporary.mkdir()
        self._make_environment()
        self._fetch(lock)
        for package in self.build.unwanted:
            self._pip(lock, "uninstall", "--yes", package, may_fail=True)
        torch = self._try()
        installed = Installed(
            self.build,
            VERSION,
            torch,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            _size(self.place.environment),
        )
        write_atomically(self.place.record, msgspec.json.encode(installed))
        shutil.rmtree(self.place.downloads, ignore_errors=True)
        shutil.rmtree(self.place.temporary, ignore_errors=True)
        return installed

    def _require_room(self) -> None:
        self.place.folder.mkdir(parents=True, exist_ok=True)
        needed, free = self.build.disk_bytes, shutil.disk_usage(self.place.folder).free
        here = _size(self.place.folder)
        self.say(
            f"{self.build.value} {VERSION} takes about {needed / 1e9:.0f} GB of disk while it is "
            f"installed ({free / 1e9:.0f} GB are free)."
        )
        if free + here < needed:
            raise DiskFull(
                f"vLLM needs about {needed / 1e9:.0f} GB of disk; {free / 1e9:.1f} GB are free.",
                hint="Free some space (`freehold prune` helps), or set FREEHOLD_HOME elsewhere.",
            )

    def _make_environment(self) -> None:
        self.say("Making its environment.")
        made = subprocess.run(
            [sys.executable, "-P", "-m", "venv", "--without-pip", str(self.place.environment)],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=die_with_parent,
        )
        if made.returncode != 0:
            raise EngineInstallFailed(
                f"No virtual environment could be made: {last_line(made.stdout + made.stderr)}",
                hint="On Debian and Ubuntu it needs the package python3-venv.",
            )

    def _fetch(self, lock: int) -> None:
        """From the index that pip is set up with; PyTorch without CUDA from its own, if need be."""
        if self._pip(lock, "install", *self.build.requirements, may_fail=self.build is Build.CPU):
            return
        self.say(f"PyTorch without CUDA is not on this index; {PYTORCH_INDEX} is asked as well.")
        self._pip(lock, "install", "--extra-index-url", PYTORCH_INDEX, *self.build.requirements)

    def _pip(self, lock: int, command: str, *arguments: str, may_fail: bool = False) -> bool:
        """Whether it went well; pip holds the ``lock`` as long as it runs. Raises
        `EngineInstallFailed` unless it ``may_fail``, and always where the index is out of reach.
        """
        words = [
            *(sys.executable, "-P", "-m", "pip", "--python", str(self.place.python)),
            *("--disable-pip-version-check", "--no-input", command, *arguments),
        ]
        if command == "install":
            words += ["--progress-bar", "off", "--cache-dir", str(self.place.downloads)]
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            text=True,
            errors="replace",
            env=self._environ(),
            preexec_fn=die_with_parent,  # noqa: PLW1509 - there is one thread
        )
        assert process.stdout is not None
        last, unreached = "", False
        with process:
            for line in process.stdout:
                last = line.strip() or last
                unreached = unreached or _UNREACHED in line
                if command == "install" and line.strip().startswith(_TELLING):
                    self.say(line.strip()[:160])
        if process.returncode != 0 and unreached:
            raise EngineInstallFailed(
                "The package index that vLLM comes from cannot be reached.",
                hint="Check the network, and which index pip uses (`pip config list`, "
                "PIP_INDEX_URL); then run the same command again: what was downloaded is kept.",
            )
        if process.returncode != 0 and not may_fail:
            raise EngineInstallFailed(
                f"pip could not install vLLM: {last[:300]}",
                hint="Run the same command again: what was downloaded is kept.",
            )
        return process.returncode == 0

    def _environ(self) -> dict[str, str]:
        """What is unpacked on the way lies on the disk whose room was looked at, and is found and
        removed by the next run when this one is killed.
        """
        return {**self.environ, "TMPDIR": str(self.place.temporary)}

    def _try(self) -> str:
        """Import it once, which also compiles its bytecode; returns PyTorch's version."""
        self.say("Trying it.")
        tried = subprocess.run(
            [str(self.place.python), "-I", "-c", _TRIAL],
            capture_output=True,
            text=True,
            check=False,
            env=self._environ(),
            preexec_fn=die_with_parent,
        )
        if tried.returncode != 0:
            raise EngineInstallFailed(
                f"vLLM was installed and cannot be imported: {last_line(tried.stderr)}",
                hint="Remove it with `freehold engine remove vllm`, then install it again.",
            )
        return last_line(tried.stdout)


def _size(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(
        path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink()
    )
