"""Results that are too small for `benchmarks.results`: a file and a table each."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.report import insert
from benchmarks.results import results_path


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What small results depend on; `table` is what the documentation shows of them."""

    date: str
    commit: str
    processor: str
    cores: int
    features: list[str] = []
    versions: dict[str, str]

    def heading(self) -> str:
        features = f" ({', '.join(self.features)})" if self.features else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"Measured {self.date} at commit {self.commit} on {self.processor}, {self.cores} "
            f"cores{features}; {versions}"
        )

    def table(self) -> str:
        raise NotImplementedError

    def publish(self, marker: str, output: Path | None, document: Path) -> None:
        """Save and print it, and put it into ``document`` unless it has a file of its own."""
        path = results_path(marker, output, quick=False)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        if output is None:
            document.write_text(insert(document.read_text(), marker, self.table()))
        print(self.table())
