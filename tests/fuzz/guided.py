"""Fuzzing by coverage: one target under libFuzzer, in a process of its own.

Run as ``python -m tests.fuzz.guided TARGET CORPUS -max_total_time=60 ...``; what follows the folder
of the corpus is for libFuzzer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

# What is instrumented must be imported in here, and nothing of it before.
with atheris.instrument_imports(include=["freehold.weights", "freehold.trust", "jinja2", "yaml"]):
    import freehold.trust.card
    import freehold.trust.template_audit
    import freehold.weights.gguf
    import freehold.weights.reference
    import freehold.weights.safetensors  # noqa: F401

from tests.fuzz.targets import TARGETS, Target


def main() -> None:
    target = TARGETS[sys.argv[1]]
    corpus = Path(sys.argv[2])
    _lay_out(target, corpus)
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-dict={_words(target, corpus.with_suffix('.dict'))}",
            f"-max_len={target.longest}",
            f"-artifact_prefix={corpus}.broken-",
            "-timeout=20",
            *sys.argv[3:],
        ],
        target.run,
    )
    atheris.Fuzz()


def _lay_out(target: Target, corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*target.seeds(), *target.cases())):
        (corpus / f"seed-{number:03}").write_bytes(data)


def _words(target: Target, path: Path) -> Path:
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in target.words)
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    main()
