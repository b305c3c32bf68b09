"""Fuzzing by chance: mutations of the seeds, the same for the same number."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from tests.fuzz.targets import Target


def mutations(target: Target, seed: int) -> Iterator[bytes]:
    """Without end: seeds and cases, changed in one to six places."""
    rng = random.Random(f"{target.name} {seed}")
    base = [*target.seeds(), *target.cases()]
    while True:
        data = bytearray(rng.choice(base)[: target.longest])
        for _ in range(rng.randint(1, 6)):
            _change(data, rng, base, target)
        yield bytes(data[: target.longest])


def _change(data: bytearray, rng: random.Random, base: list[bytes], target: Target) -> None:
    place = rng.randint(0, len(data))
    match rng.randrange(7):
        case 0:  # a byte
            data[place : place + 1] = rng.randbytes(1)
        case 1:  # a bit
            if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
        case 2:  # a word, over what is there or between
            word = rng.choice(target.words)
            data[place : place + rng.choice((0, len(word)))] = word
        case 3:  # a stretch out
            del data[place : place + rng.randint(1, 40)]
        case 4:  # a stretch twice
            data[place:place] = data[place : place + rng.randint(1, 40)] * rng.randint(1, 4)
        case 5:  # a stretch of another
            other = rng.choice(base)
            start = rng.randint(0, len(other))
            data[place : place + rng.randint(0, 40)] = other[start : start + rng.randint(1, 200)]
        case 6:  # the end off
            del data[place:]


def run(target: Target, *, seed: int, seconds: float, most: int | None = None) -> int:
    """How many inputs were tried; what breaks is raised, with the input as a note."""
    end = time.monotonic() + seconds
    for tried, data in enumerate(mutations(target, seed)):
        if time.monotonic() > end or tried == most:
            return tried
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"input: {data!r}")
            raise
    raise AssertionError("mutations end")
