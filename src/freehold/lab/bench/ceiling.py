"""How near a model served here came to what this machine can do, where that was calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from freehold.domain.engine import Kernels
from freehold.domain.errors import UnknownArchitecture
from freehold.domain.settings import Settings
from freehold.lab.bench.report import StageResult
from freehold.lab.bench.workload import Kind, Workload
from freehold.machine.dissect import anatomy_of_header
from freehold.machine.profile import EngineSettings
from freehold.machine.roofline import Roofline, roofline
from freehold.runtime.calibration import recall
from freehold.runtime.profiles import Here, choose
from freehold.runtime.vllm import run_by_vllm
from freehold.runtime.wiring import engine_config
from freehold.weights.gguf import read_header
from freehold.weights.library import Library


def ceiling(
    settings: Settings, model: str, workload: Workload, stages: Sequence[StageResult]
) -> str | None:
    """One sentence from the stage of a single user; None without one, without a calibration of
    this machine (`freehold plan --calibrate` makes it), or for an architecture nobody knows.

    Decoding is by the mean time per token, reading by the mean time to the first token: what the
    server does beside the model counts against it, and guessed tokens for it.
    """
    alone = next((each for each in stages if (each.stage.kind, each.stage.level) == _ALONE), None)
    if alone is None:
        return None
    per_token, first = alone.median("tpot_ms.mean"), alone.median("ttft_ms.mean")
    here = Here.now(settings.home)
    calibration = recall(settings.home, here.computer, here.build)
    if calibration is None or not per_token or not first:
        return None
    library = Library.open(settings)
    local = library.local(model)
    if local.reference in run_by_vllm(library):
        return None  # what is reckoned here is llama.cpp's way
    config = choose(library, local, engine_config(settings, local, Kernels.FAST), settings).config
    if len(config.paths) > 1:
        return None  # the first part of a split file does not have all tensors
    try:
        anatomy = anatomy_of_header(read_header(Path(config.paths[0])))
    except UnknownArchitecture:
        return None
    setup = EngineSettings(config.cache, config.threads, config.micro_batch)

    def at(depth: int) -> Roofline:
        return roofline(
            anatomy,
            calibration,
            setup,
            depth=depth,
            sequences=1,
            decode=1000 / per_token,
            prefill=1000 * (workload.prompt - workload.shared) / first,
        )

    read, answered = at(workload.shared), at(workload.prompt + workload.answer // 2)
    return f"Roofline, 1 user: {Roofline(answered.decode, read.prefill).text}."


_ALONE = (Kind.USERS, 1.0)
