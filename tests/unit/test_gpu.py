"""Graphics processors: what the driver tells, what a child would see, what Apple's share is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from freehold.machine.computer import GpuKind
from freehold.machine.gpu import Card, amd, apple, cards_of, nvidia, visible

GIB = 2**30
CARDS = (
    Card("NVIDIA GeForce RTX 4090", "GPU-aaaa-1", 24 * GIB, 23 * GIB, 10_501_000_000, 384),
    Card("NVIDIA GeForce RTX 3060", "GPU-aabb-2", 12 * GIB, 11 * GIB),
)


class Recorded:
    """A driver that says what was recorded of one."""

    def cards(self) -> Iterator[Card]:
        yield from CARDS


class Broken:
    """A driver whose library fails after the first card."""

    def cards(self) -> Iterator[Card]:
        yield CARDS[0]
        raise RuntimeError("GPU is lost")


@pytest.fixture
def with_driver(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    return tmp_path


def test_bandwidth_is_clock_times_width_times_two(with_driver: Path) -> None:
    first, second = nvidia({}, with_driver, Recorded())
    # 10,501 MHz, 384 bits, two transfers a cycle: the 1,008 GB/s on the box.
    assert first.bandwidth == 2 * 10_501e6 * 384 / 8 == 1_008_096_000_000
    assert (first.kind, first.total, first.available) == (GpuKind.CUDA, 24 * GIB, 23 * GIB)
    assert second.bandwidth is None


def test_without_a_driver_nobody_is_asked(tmp_path: Path) -> None:
    assert nvidia({}, tmp_path, Broken()) == ()


def test_a_driver_that_fails_is_no_error(with_driver: Path) -> None:
    assert nvidia({}, with_driver, Broken()) == ()


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, CARDS),
        ("", ()),
        ("-1", ()),
        ("1", CARDS[1:]),
        ("1,0", (CARDS[1], CARDS[0])),
        ("0,7,1", CARDS[:1]),
        ("GPU-aabb", CARDS[1:]),
        ("GPU-aa", ()),  # could mean either
    ],
)
def test_what_a_child_would_see(chosen: str | None, seen: tuple[Card, ...]) -> None:
    assert visible(CARDS, chosen) == seen


def instance(_: int, index: int) -> int:
    if index > 1:
        raise RuntimeError("Not Found")
    return 10 + index


def memory(device: int) -> SimpleNamespace:
    total = {0: 144, 1: 144, 10: 72, 11: 18}[device] * GIB
    return SimpleNamespace(total=total, free=total - GIB)


NAMES = {10: "NVIDIA H200 MIG 3g.71gb", 11: "NVIDIA H200 MIG 1g.18gb"}
# NVIDIA's library on a computer with an H200 that is divided, and one that is not. Handles are
# numbers: 0 and 1 the cards, 10 and 11 the instances of the first.
LIBRARY = SimpleNamespace(
    NVML_CLOCK_MEM=2,
    NVML_DEVICE_MIG_ENABLE=1,
    NVMLError=RuntimeError,
    nvmlDeviceGetCount=lambda: 2,
    nvmlDeviceGetHandleByIndex=lambda index: index,
    nvmlDeviceGetMigMode=lambda device: (1, 1) if device == 0 else (0, 0),
    nvmlDeviceGetMaxMigDeviceCount=lambda _: 7,
    nvmlDeviceGetMigDeviceHandleByIndex=instance,
    nvmlDeviceGetMemoryInfo=memory,
    nvmlDeviceGetName=lambda device: NAMES.get(device, "NVIDIA H200"),
    nvmlDeviceGetUUID={0: "GPU-a", 1: "GPU-b", 10: "MIG-c", 11: "MIG-d"}.__getitem__,
    nvmlDeviceGetMaxClockInfo=lambda *_: 3201,
    nvmlDeviceGetMemoryBusWidth=lambda _: 6144,
)


def test_the_instances_of_a_divided_card_are_cards_of_their_own() -> None:
    half, eighth, whole = cards_of(LIBRARY)
    assert [card.name for card in (half, eighth, whole)] == [
        "NVIDIA H200 MIG 3g.71gb",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA H200",
    ]
    assert (half.total, half.available) == (72 * GIB, 71 * GIB)
    full = 2 * 3201e6 * 6144 / 8
    assert whole.as_gpu().bandwidth == full
    assert half.as_gpu().bandwidth == full / 2
    assert eighth.as_gpu().bandwidth == full / 8


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [(None, ["MIG-c"]), ("MIG-d", ["MIG-d"]), ("MIG-d,MIG-c", ["MIG-d"]), ("GPU-b", ["GPU-b"])],
)
def test_a_process_sees_one_instance_or_whole_cards(chosen: str | None, seen: list[str]) -> None:
    cards = tuple(cards_of(LIBRARY))
    assert [card.identity for card in visible(cards, chosen)] == seen


def test_apples_share_of_the_memory() -> None:
    small = apple("Apple M3 Max", 36 * GIB)
    assert (small.total, small.bandwidth, small.kind) == (24 * GIB, 300e9, GpuKind.METAL)
    assert apple("Apple M2 Ultra", 192 * GIB).total == 144 * GIB
    assert apple("Apple M2 Ultra", 192 * GIB, wired_limit=180 * GIB).total == 180 * GIB
    assert apple("Apple M99 Hyper", 36 * GIB).bandwidth is None


def test_amds_files(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/drm/card1/device"
    folder.mkdir(parents=True)
    (folder / "mem_info_vram_total").write_text("17163091968\n")
    (tmp_path / "sys/class/drm/card0/device").mkdir(parents=True)  # another maker's
    assert amd(tmp_path) == ()
    (folder / "mem_info_vram_used").write_text("163091968\n")
    (card,) = amd(tmp_path)
    assert (card.kind, card.total, card.available) == (GpuKind.OTHER, 17163091968, 17_000_000_000)
