"""The start-up probe: may llama.cpp's fast kernels be used on this machine?

Asked once for each native build and CPU, answered by a tiny decode in a process that may
die of it, remembered in the store's ``state`` folder.

    fast kernels work                     → FAST
    they fail and the plain ones work     → PLAIN, said once with the rebuild command
    neither works                         → LoadFailed
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.domain.engine import Kernels
from freehold.domain.errors import LoadFailed, Unavailable
from freehold.domain.settings import environment
from freehold.engines.llamacpp.build import Build, installed, rebuild_command
from freehold.process.child import child_environment, describe_exit
from freehold.process.decoding import from_json
from freehold.weights.files import write_atomically

log = logging.getLogger(__name__)

PROBE_SECONDS = 120.0

Run = Callable[[Kernels], Awaitable[int]]


@dataclass(frozen=True)
class Verdict:
    """What the probe of one build found. ``failure`` says how the fast kernels failed."""

    identity: str
    kernels: Kernels
    failure: str | None = None


async def check(
    state: Path,
    *,
    notice: Callable[[str], None],
    build: Build | None = None,
    run: Run | None = None,
) -> Verdict:
    """The remembered verdict for this build, or a fresh one. ``notice`` is for people."""
    build = build or installed()
    if build is None:
        raise LoadFailed(
            "llama-cpp-python is not installed, so llama.cpp models cannot run.",
            hint="Install freehold again with its dependencies.",
        )
    path = state / "native.json"
    known = recall(path)
    if known is not None and known.identity == build.identity:
        return known
    verdict = await _probe(build, run or run_probe)
    with contextlib.suppress(OSError, Unavailable):  # it is asked again next time, no more
        write_atomically(path, msgspec.json.encode(verdict))
    if verdict.kernels is Kernels.PLAIN:
        notice(
            f"llama.cpp's fast kernels fail on this machine ({verdict.failure}); the plain ones "
            f"are used, which is slower. To compile it anew: {rebuild_command(build.version)}"
        )
    return verdict


def recall(path: Path) -> Verdict | None:
    try:
        return from_json(path.read_bytes(), Verdict)
    except (OSError, msgspec.DecodeError):
        return None


async def _probe(build: Build, run: Run) -> Verdict:
    status = await run(Kernels.FAST)
    if status == 0:
        return Verdict(build.identity, Kernels.FAST)
    failure = f"a small test {describe_exit(status)}"
    log.warning("the fast kernels failed: %s", failure)
    if await run(Kernels.PLAIN) == 0:
        return Verdict(build.identity, Kernels.PLAIN, failure)
    raise LoadFailed(
        f"The native build of llama.cpp does not work on this machine ({failure}).",
        hint=f"Compile it anew: {rebuild_command(build.version)}",
    )


async def run_probe(kernels: Kernels) -> int:
    """Run the probe in its own process; returns its exit status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "freehold.engines.llamacpp.probe", kernels.value),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(environment()),
        start_new_session=True,
    )
    try:
        _, words = await asyncio.wait_for(process.communicate(), PROBE_SECONDS)
    except TimeoutError:  # kernels that never end are no better than ones that crash
        process.kill()
        return await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    log.debug("probe %s: %s", kernels, words.decode("utf-8", "replace")[-2000:])
    return process.returncode if process.returncode is not None else 1
