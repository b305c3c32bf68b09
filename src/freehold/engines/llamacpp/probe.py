"""A tiny decode in a process of its own: does this build work on this CPU?

Run as ``python -P -m freehold.engines.llamacpp.probe fast|plain``. Exit status 0
means yes. Anything else, a signal above all, means no; see `runtime.native`. With
``info`` instead it prints, as JSON, which instruction sets the build uses.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from freehold.domain.engine import Kernels
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import Context, Entry, system_info
from freehold.engines.llamacpp.probe_model import write_probe_model
from freehold.process.inside import leave_no_core
from freehold.text.vocabulary import start_native

# Enough tokens for the matrix kernels of prefill, then the vector kernels of decode.
_PROMPT_TOKENS = 40
_DECODE_STEPS = 3


def probe(kernels: Kernels) -> bool:
    """Load the probe model and decode; False if what comes out are no numbers."""
    with tempfile.TemporaryDirectory(prefix="freehold-probe-") as folder:
        path = Path(folder) / "probe.gguf"
        write_probe_model(path)
        context = Context(EngineConfig("probe", (str(path),), 256, 1, 2, kernels))
        tokens = np.arange(_PROMPT_TOKENS, dtype=np.int32) % 64 + 1
        (logits,) = context.decode([Entry(0, 0, tokens, outputs=1)])
        for step in range(_DECODE_STEPS):
            if not np.isfinite(logits).all():
                return False
            token = np.array([np.argmax(logits)], dtype=np.int32)
            (logits,) = context.decode([Entry(0, _PROMPT_TOKENS + step, token, outputs=1)])
        sound = bool(np.isfinite(logits).all())
        context.close()
    return sound


def instruction_sets(info: str) -> dict[str, bool]:
    """``CPU : AVX2 = 1 | REPACK = 1 |`` to names and whether they are used."""
    pairs = (part.rpartition(":")[2].partition("=") for part in info.split("|"))
    return {name.strip(): value.strip() == "1" for name, sign, value in pairs if sign}


def main(what: str) -> int:
    leave_no_core()
    start_native()
    if what == "info":
        print(json.dumps(instruction_sets(system_info())))
        return 0
    return 0 if probe(Kernels(what)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
