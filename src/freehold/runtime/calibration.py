"""Calibrating this computer: run the measuring child, keep what it found.

    HOME/state/calibration.json     one `Calibration`: of the last computer and build measured

`calibrate(settings, progress)` measures (half a minute at most, on a machine that is not
busy otherwise) and keeps the result;
`recall(home, computer, build)` is what was kept, if it holds for this computer and build.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

import msgspec

from freehold.domain.chat import GenerateRequest
from freehold.domain.engine import Kernels
from freehold.domain.errors import LoadFailed, Unavailable
from freehold.domain.events import Finished
from freehold.domain.sampling import Sampling
from freehold.domain.settings import Settings, environment
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.build import installed
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.engines.llamacpp.made_up import bare, write_made_up
from freehold.machine.calibration import CALIBRATION_FORMAT, Calibration
from freehold.machine.probe import probe, usable_cores
from freehold.process.child import child_environment, describe_exit, last_line
from freehold.process.decoding import from_json
from freehold.runtime import native
from freehold.weights.files import write_atomically
from freehold.weights.progress import Progress

log = logging.getLogger(__name__)

# Far more than it takes; a machine where it takes longer cannot be told anything about.
LIMIT_SECONDS = 300.0
# The worker is timed by the fastest of so many answers of so many tokens, and so many layers.
_ANSWERS, _TOKENS, _LAYERS = 8, 64, 4


class _Doing(msgspec.Struct, frozen=True, tag="Doing"):
    """What the child says meanwhile."""

    what: str
    done: int
    total: int


async def calibrate(settings: Settings, progress: Progress) -> Calibration:
    """Measure this computer now, keep the result and return it. ``progress`` hears what is being
    measured.

    Raises `LoadFailed` where llama.cpp is missing or the child fails, for want of room for the
    made-up models too.
    """
    build = installed()
    state = settings.home / "state"
    verdict = await native.check(state, notice=progress.note, build=build)
    threads = settings.threads or usable_cores()
    found = await _measure(threads, verdict.kernels.value, progress)
    progress.status("measuring the worker")
    step = await _step(threads, verdict.kernels, found.layer)
    calibration = msgspec.structs.replace(
        found,
        step=max(found.step, step),
        computer=probe(settings.home, environment()).fingerprint,
        build=build.identity if build else "",
    )
    if calibration.disturbed:
        progress.note(
            f"Measuring got {calibration.share:.0%} of the cores' time, other programs the rest; "
            "repeat it when they are quiet."
        )
    if calibration.left_out:
        progress.note(
            f"There was no time to measure {', '.join(calibration.left_out)}. Plans that need it "
            "say so."
        )
    with contextlib.suppress(OSError, Unavailable):  # it is measured again next time, no more
        write_atomically(_file(settings.home), msgspec.json.encode(calibration))
    return calibration


def recall(home: Path, computer: str, build: str) -> Calibration | None:
    """What was measured on this computer (its fingerprint) with this build (its identity)."""
    try:
        known = from_json(_file(home).read_bytes(), Calibration)
    except (OSError, msgspec.DecodeError):
        return None
    holds = (known.computer, known.build, known.format) == (computer, build, CALIBRATION_FORMAT)
    return known if holds else None


def _file(home: Path) -> Path:
    return home / "state" / "calibration.json"


async def _step(threads: int, kernels: Kernels, layer: float) -> float:
    """Seconds of a step through the whole engine, with the worker, the wire and us: of a model of
    almost no weights, less its layers."""
    with tempfile.TemporaryDirectory(prefix="freehold-calibration-") as folder:
        path = Path(folder) / "bare.gguf"
        write_made_up(path, bare(_LAYERS))
        engine = LlamaCppEngine(
            EngineConfig("bare", (str(path),), 512, 1, threads, kernels, drafts=False)
        )
        await engine.load()
        try:
            times = [await _per_token(engine, str(number)) for number in range(_ANSWERS)]
        finally:
            await engine.close()
    return min(times) - _LAYERS * layer


async def _per_token(engine: LlamaCppEngine, name: str) -> float:
    request = GenerateRequest(
        name, (1, 2, 3), max_tokens=_TOKENS, sampling=Sampling(temperature=0, ignore_end=True)
    )
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            return event.timings.decode / (_TOKENS - 1)
    raise LoadFailed("Calibrating: the worker's answer did not end.")


async def _measure(threads: int, kernels: str, progress: Progress) -> Calibration:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "freehold.engines.llamacpp.calibrating"),
        *(str(threads), kernels),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(environment()),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    words = asyncio.create_task(process.stderr.read())
    found: Calibration | None = None
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            async for line in process.stdout:
                found = _heard(line, progress)
            status = await process.wait()
    except TimeoutError:
        raise LoadFailed(
            f"Calibrating did not end within {LIMIT_SECONDS:.0f} seconds.",
            hint="Stop what else runs on this machine and repeat.",
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        text = (await words).decode("utf-8", "replace")
    if status != 0 or found is None:
        log.error("calibrating: %s", text[-2000:])
        raise LoadFailed(
            f"Calibrating {describe_exit(status)}: {last_line(text)}",
            hint="`freehold doctor` tests the build of llama.cpp.",
        )
    return found


def _heard(line: bytes, progress: Progress) -> Calibration | None:
    """A line of the child: what it does now, or the result."""
    with contextlib.suppress(msgspec.DecodeError):
        doing = from_json(line, _Doing)
        progress.status(f"measuring {doing.what} ({doing.done + 1} of {doing.total})")
        return None
    return from_json(line, Calibration)
