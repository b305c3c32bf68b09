"""Running `dequantise` with vLLM's Python: GGUF in, a folder of safetensors out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from freehold.domain.errors import EngineError
from freehold.engines.vllm import dequantise
from freehold.engines.vllm.installation import Place
from freehold.engines.vllm.launch import quiet_environ


async def to_safetensors(
    place: Place, source: Path, out: Path, inherited: Mapping[str, str], say: Callable[[str], None]
) -> None:
    """``say`` is told each step. Raises `EngineError` with the converter's last words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "freehold.engines.vllm.isolated"),
        *(str(place.python), "-P", dequantise.__file__),
        *(str(source.parent), source.name, str(out)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=quiet_environ(inherited, place.folder / "cache"),
        start_new_session=True,
    )
    try:
        _, complaints = await asyncio.gather(_steps(process, say), _last_words(process))
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise EngineError(
            f"The weights could not be converted: {complaints}",
            hint="Not every architecture can be: see docs/vllm.md.",
        )


async def _steps(process: asyncio.subprocess.Process, say: Callable[[str], None]) -> None:
    assert process.stdout is not None
    while line := await _line(process.stdout):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a library's own words
            say(str(json.loads(line)["step"]))


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    last = "it says nothing"
    while line := await _line(process.stderr):
        last = line.decode("utf-8", "replace").strip()[:300] or last
    return last


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; of one that is too long (a progress bar), a part."""
    try:
        return await stream.readline()
    except ValueError:
        return b"...\n"
