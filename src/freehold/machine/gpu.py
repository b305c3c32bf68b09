"""Graphics processors: NVIDIA's through NVML, Apple's by what the system says, AMD's by sysfs.

Best effort: a missing driver, library or file means no card, never an error. NVML is loaded only
where a driver is, so a computer without one waits for nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from freehold.machine.computer import Gpu, GpuKind

log = logging.getLogger(__name__)

# Any of these is there where NVIDIA's driver is; the last is how WSL passes cards on.
_DRIVER = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg")

# Bytes per second of the unified memory, by chip; Apple's own specifications
# (support.apple.com/specs). Where a chip was sold with two, the smaller one.
_APPLE_BANDWIDTH = {
    "M1": 68e9,
    "M1 Pro": 200e9,
    "M1 Max": 400e9,
    "M1 Ultra": 800e9,
    "M2": 100e9,
    "M2 Pro": 200e9,
    "M2 Max": 400e9,
    "M2 Ultra": 800e9,
    "M3": 100e9,
    "M3 Pro": 150e9,
    "M3 Max": 300e9,
    "M3 Ultra": 819e9,
    "M4": 120e9,
    "M4 Pro": 273e9,
    "M4 Max": 410e9,
}


@dataclass(frozen=True)
class Card:
    """One NVIDIA device as NVML tells of it: bytes, hertz, bits.

    ``share``: which part of the memory's bandwidth is its own; less than 1 for an ``instance``, a
    part of a card that was divided (MIG).
    """

    name: str
    identity: str
    total: int
    available: int
    memory_clock: int | None = None
    bus_width: int | None = None
    share: float = 1.0
    instance: bool = False

    def as_gpu(self) -> Gpu:
        """With the bandwidth its clock and bus width give: two transfers a cycle."""
        bandwidth = None
        if self.memory_clock and self.bus_width:
            bandwidth = self.share * 2 * self.memory_clock * self.bus_width / 8
        return Gpu(self.name, GpuKind.CUDA, self.total, self.available, bandwidth)


class Driver(Protocol):
    """What asks the cards; raises whatever its library raises."""

    def cards(self) -> Iterator[Card]: ...


class Nvml:
    """NVIDIA's management library, from the first `cards` until their end."""

    def cards(self) -> Iterator[Card]:
        import pynvml  # noqa: PLC0415  # a sixth of a second, wanted only where a driver is

        pynvml.nvmlInit()
        try:
            yield from cards_of(pynvml)
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def cards_of(nvml: Any) -> Iterator[Card]:
    """By NVIDIA's library, which is open; the instances of a divided card in its place."""
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        card = _card(nvml, device)
        if _divided(nvml, device):
            yield from _instances(nvml, device, card)
        else:
            yield card


def _divided(nvml: Any, device: Any) -> bool:
    with contextlib.suppress(nvml.NVMLError):  # most cards cannot be
        current, _ = nvml.nvmlDeviceGetMigMode(device)
        return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)
    return False


def _instances(nvml: Any, device: Any, whole: Card) -> Iterator[Card]:
    """Each has memory of its own, and of the bandwidth the same part."""
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        with contextlib.suppress(nvml.NVMLError):  # there may be fewer
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
            memory = nvml.nvmlDeviceGetMemoryInfo(part)
            yield dataclasses.replace(
                whole,
                name=_string(nvml.nvmlDeviceGetName(part)),
                identity=_string(nvml.nvmlDeviceGetUUID(part)),
                total=int(memory.total),
                available=int(memory.free),
                share=min(1.0, memory.total / whole.total),
                instance=True,
            )


def _card(nvml: Any, device: Any) -> Card:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    clock = width = None
    with contextlib.suppress(nvml.NVMLError):
        clock = nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_MEM) * 1_000_000
        width = nvml.nvmlDeviceGetMemoryBusWidth(device)
    return Card(
        name=_string(nvml.nvmlDeviceGetName(device)),
        identity=_string(nvml.nvmlDeviceGetUUID(device)),
        total=int(memory.total),
        available=int(memory.free),
        memory_clock=clock,
        bus_width=width,
    )


def _string(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def nvidia(
    environment: Mapping[str, str], root: Path = Path("/"), driver: Driver | None = None
) -> tuple[Gpu, ...]:
    """The cards that a child of ours would see, in its order."""
    if not any((root / path).exists() for path in _DRIVER):
        return ()
    try:
        cards = tuple((driver or Nvml()).cards())
    except Exception as error:  # noqa: BLE001  # a foreign library, at the border of the process
        log.info("NVIDIA's management library does not answer: %s", error)
        return ()
    return tuple(card.as_gpu() for card in visible(cards, environment.get("CUDA_VISIBLE_DEVICES")))


def visible(cards: tuple[Card, ...], chosen: str | None) -> tuple[Card, ...]:
    """What CUDA_VISIBLE_DEVICES leaves: numbers or the beginnings of identities; the first entry
    that is neither ends the list, as in CUDA. A process sees whole cards or one instance."""
    named = cards if chosen is None else _listed(cards, chosen)
    if named and named[0].instance:
        return named[:1]
    return tuple(card for card in named if not card.instance)


def _listed(cards: tuple[Card, ...], chosen: str) -> tuple[Card, ...]:
    found: list[Card] = []
    for word in (part.strip() for part in chosen.split(",")):
        card = _named(cards, word)
        if card is None:
            break
        found.append(card)
    return tuple(found)


def _named(cards: tuple[Card, ...], word: str) -> Card | None:
    if word.isdecimal():
        return cards[int(word)] if int(word) < len(cards) else None
    same = [card for card in cards if word and card.identity.startswith(word)]
    return same[0] if len(same) == 1 else None


def apple(chip: str, memory: int, wired_limit: int = 0) -> Gpu:
    """The graphics processor of an Apple chip, which shares the ``memory``.

    ``wired_limit`` is what the owner has set (``iogpu.wired_limit_mb``, in bytes). Without it Metal
    recommends two thirds of up to 36 GB, three quarters of more.
    """
    share = (2, 3) if memory <= 36 * 2**30 else (3, 4)
    usable = wired_limit or memory * share[0] // share[1]
    return Gpu(chip, GpuKind.METAL, usable, usable, _apple_bandwidth(chip))


def _apple_bandwidth(chip: str) -> float | None:
    match = re.search(r"\bM\d+(?: (?:Pro|Max|Ultra))?", chip)
    return _APPLE_BANDWIDTH.get(match[0]) if match else None


def amd(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """Cards of the ``amdgpu`` driver: its files tell how much memory, not how fast."""
    return tuple(
        gpu
        for folder in sorted((root / "sys/class/drm").glob("card[0-9]*/device"))
        if (gpu := _amd_card(folder)) is not None
    )


def _amd_card(folder: Path) -> Gpu | None:
    try:
        total = int((folder / "mem_info_vram_total").read_text())
        used = int((folder / "mem_info_vram_used").read_text())
    except (OSError, ValueError):
        return None
    try:
        name = (folder / "product_name").read_text().strip()
    except OSError:
        name = ""
    named = name or f"AMD graphics ({folder.parent.name})"
    return Gpu(named, GpuKind.OTHER, total, max(0, total - used))
