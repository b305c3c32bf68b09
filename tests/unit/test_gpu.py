"""Graphics processors: what the driver tells, what a child would see, what Apple's share is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold.machine.computer import GpuKind
from freehold.machine.gpu import Card, amd, apple, nvidia, visible

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
