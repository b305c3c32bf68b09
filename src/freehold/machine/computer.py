"""What this computer is, in the words that plans and profiles share. Sizes are bytes.

Found out by `machine.probe`; recorded computers are read back from JSON (tests, other machines).
"""

from __future__ import annotations

import enum
import hashlib

import msgspec


class Processor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``cores`` may be used by us (affinity, container quota); ``physical`` are in the machine.

    ``instruction_sets`` are those that matter for speed, as the system spells them (``avx2``,
    ``avx512f``, ``amx_int8``, ``neon`` …).
    """

    name: str
    architecture: str
    cores: int
    physical: int | None = None
    instruction_sets: tuple[str, ...] = ()


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``total`` is what we could ever have: the machine's, or less where a container says so
    (``limited_by`` names what does)."""

    total: int
    available: int
    limited_by: str | None = None


class GpuKind(enum.StrEnum):
    CUDA = "cuda"
    METAL = "metal"  # shares the machine's memory
    OTHER = "other"


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``bandwidth`` is of its memory, in bytes per second, where a table or the driver tells."""

    name: str
    kind: GpuKind
    total: int
    available: int
    bandwidth: float | None = None


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the store is."""

    path: str
    available: int


class Computer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One computer at one moment."""

    system: str
    processor: Processor
    memory: Memory
    disk: Disk
    gpus: tuple[Gpu, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes when measurements made here no longer hold: another processor, another number
        of cores, other graphics processors. What varies by the hour is left out."""
        lasting = (self.system, self.processor, [(gpu.name, gpu.total) for gpu in self.gpus])
        return hashlib.sha256(msgspec.json.encode(lasting)).hexdigest()[:16]
