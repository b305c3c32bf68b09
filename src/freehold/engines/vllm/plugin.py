"""Where vLLM's Python finds what is ours: a folder on its import path, that says it has a plugin.

Two modules, which import nothing of freehold: the plugin `in_vllm`, which vLLM loads in each of its
processes, and `starts_vllm`, which is run in place of vLLM's own module.
"""

from __future__ import annotations

from pathlib import Path

from freehold.engines.vllm import in_vllm, starts_vllm
from freehold.weights.files import write_atomically

NAME = "freehold_in_vllm"
STARTER = "freehold_starts_vllm"
_METADATA = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\n"
_ENTRY_POINTS = f"[vllm.general_plugins]\n{NAME} = {NAME}:register\n"


def put(folder: Path) -> Path:
    """Write it, unless it is there; returns ``folder``."""
    about = folder / f"{NAME}-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    for path, content in (
        (folder / f"{NAME}.py", Path(in_vllm.__file__).read_bytes()),
        (folder / f"{STARTER}.py", Path(starts_vllm.__file__).read_bytes()),
        (about / "METADATA", _METADATA.encode()),
        (about / "entry_points.txt", _ENTRY_POINTS.encode()),
    ):
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
    return folder
