"""The results file: saved after every measurement, and taken up again where it stops."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Record, Summary
from benchmarks.weights import CACHE, ROOT, BenchmarkError


@dataclass
class Results:
    """Everything one run found. ``about`` says of what; it must be the same to go on."""

    path: Path
    about: dict[str, Any]
    screening: list[dict[str, Any]] = field(default_factory=list)
    best: str | None = None
    measurements: list[dict[str, Any]] = field(default_factory=list)
    batched: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, about: dict[str, Any], *, fresh: bool) -> Results:
        """What ``path`` holds, if that is about the same; a new file else."""
        if fresh or not path.exists():
            return cls(path, about)
        found = cls.read(path)
        ignored = {"date"}
        differing = [
            name
            for name in sorted({*about, *found.about} - ignored)
            if about.get(name) != found.about.get(name)
        ]
        if differing:
            raise BenchmarkError(
                f"{path} was measured with another {' and '.join(differing)}; "
                "say --fresh to begin again, or --output for another file."
            )
        return found

    @classmethod
    def read(cls, path: Path) -> Results:
        """A results file as it is."""
        return cls(path, **json.loads(path.read_text()))

    def add(
        self, workload: str, server: str, repeat: int, summary: Summary, records: Sequence[Record]
    ) -> None:
        """Keep one measurement; repeat 0 is the screening, of which only the summary stays."""
        row = {
            "workload": workload,
            "server": server,
            "repeat": repeat,
            "summary": dataclasses.asdict(summary),
        }
        if repeat == 0:
            self.screening.append(row)
        else:
            self.measurements.append({**row, "requests": compact(records)})
        self.save()

    def has(self, workload: str, server: str, repeat: int) -> bool:
        """Whether it need not be measured again."""
        rows = self.screening if repeat == 0 else self.measurements
        key = (workload, server, repeat)
        return any((row["workload"], row["server"], row["repeat"]) == key for row in rows)

    def save(self) -> None:
        """Write everything, one measurement a line."""
        lists = ("screening", "measurements", "batched")
        parts = [f'"about": {json.dumps(self.about, indent=1)}', f'"best": {json.dumps(self.best)}']
        for name in lists:
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in getattr(self, name))
            parts.append(f'"{name}": [\n{rows}\n]')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(parts) + "\n}\n")
        partial.rename(self.path)


def results_path(kind: str, output: Path | None, *, quick: bool) -> Path:
    """Where a run of today is kept: ``output``, beside the earlier ones, or out of the way."""
    if output is not None:
        return output
    if quick:
        return CACHE / f"quick-{kind}.json"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return ROOT / "benchmarks" / "results" / f"{today}-{kind}.json"


def compact(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records in whole milliseconds: when sent, when first answered, and the gaps after that."""
    start = min(record.sent for record in records)

    def since(moment: float, base: float) -> int:
        return round((moment - base) * 1000)

    return [
        {
            "role": record.role,
            "at": since(record.sent, start),
            "first": since(record.chunks[0], record.sent) if record.chunks else None,
            "in": record.prompt_tokens,
            "out": record.tokens,
            "gaps": [
                since(later, start) - since(earlier, start)
                for earlier, later in zip(record.chunks, record.chunks[1:], strict=False)
            ],
        }
        for record in sorted(records, key=lambda record: record.sent)
    ]


def about(
    model: Path, digest: str, flags: Mapping[str, str], build: Sequence[str], repeats: int
) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": model.name,
        "sha256": digest,
        "repeats": repeats,
        "commit": _commit(),
        "machine": _machine(),
        "versions": {
            "freehold": version("freehold"),
            "llama-cpp-python": version("llama-cpp-python"),
            "python": platform.python_version(),
        },
        "build": list(build),
        "flags": dict(flags),
    }


def _commit() -> str:
    """Of this repository, and whether the program differs from it: states are not mixed."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "src", "uv.lock")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    features: list[str] = []
    if described.exists():
        for line in described.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                processor = value.strip()
            elif name.strip() == "flags":
                wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "avx_vnni")
                features = [word for word in wanted if word in value.split()]
    return {
        "processor": processor,
        "features": features,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
    }
