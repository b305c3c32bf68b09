"""`python -m tests.fuzz TARGET [--seconds N] [--seed N] [--corpus FOLDER] [--plain]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import plain
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another each time, if guided")
    parser.add_argument(
        "--corpus", type=Path, help="where inputs that reach something new are kept"
    )
    parser.add_argument("--plain", action="store_true", help="by chance, without atheris")
    asked = parser.parse_args()
    if asked.plain:
        tried = plain.run(TARGETS[asked.target], seed=asked.seed, seconds=asked.seconds)
        print(f"{asked.target}: {tried} inputs in {asked.seconds} s, nothing found")
        return 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        corpus = asked.corpus or Path(scratch, "corpus")
        return subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.guided", asked.target, str(corpus)),
                *(f"-max_total_time={asked.seconds}", f"-seed={asked.seed}"),
                "-print_final_stats=1",
            ],
            env={**os.environ, "TMPDIR": scratch},  # libFuzzer ends without tidying up
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
