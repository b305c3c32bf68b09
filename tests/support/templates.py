"""Official chat templates, as llama.cpp's source archive has them. They are not ours to copy.

The archive is that of the locked llama-cpp-python, checked against the lock file; it is the one
that the benchmarks build from, in the same place.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "bench" / "sdist"
PACKAGE = "llama-cpp-python"
_INSIDE = "vendor/llama.cpp/models/templates"


@functools.cache
def templates() -> Mapping[str, str]:
    """File name without its ending → template."""
    found: dict[str, str] = {}
    with tarfile.open(_archive()) as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            if path.suffix == ".jinja" and _INSIDE in member.name:
                content = opened.extractfile(member)
                assert content is not None
                found[path.stem] = content.read().decode()
    return found


def _archive() -> Path:
    packages: list[Mapping[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = next(package for package in packages if package["name"] == PACKAGE)
    digest: str = locked["sdist"]["hash"]
    path = FOLDER / f"llama_cpp_python-{locked['version']}.tar.gz"
    if not path.exists():
        _download(f"{PACKAGE}=={locked['version']} --hash={digest}\n")
    with path.open("rb") as file:
        assert f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
    return path


def _download(requirement: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = FOLDER / "wanted.txt"
    wanted.write_text(requirement)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
            *("--no-deps", "--no-binary", PACKAGE, "--require-hashes"),
            *("--dest", str(FOLDER), "--requirement", str(wanted)),
        ],
        check=True,
        timeout=300,
    )
