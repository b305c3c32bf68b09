"""Which files of a repository make up a model in safetensors. Pure.

A list of what is taken, not of what is left: pickles and programs may lie beside it and are never
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from freehold.domain.errors import UnsupportedFile
from freehold.weights.checkpoint import CONFIG, INDEX, TEXTS, TOKENISER
from freehold.weights.sources.base import RemoteFile

_SUFFIX = ".safetensors"
_SINGLE = f"model{_SUFFIX}"


def checkpoint_of(files: Iterable[RemoteFile], repository: str) -> tuple[RemoteFile, ...]:
    """Weights first, then the texts; none where the repository holds no such model. Raises
    `UnsupportedFile` for one that lacks what a model cannot do without.
    """
    known = {file.name: file for file in files if "/" not in file.name}
    weights = sorted(
        (file for name, file in known.items() if name.endswith(_SUFFIX) and not _adapter(name)),
        key=lambda file: file.name,
    )
    if not weights:
        return ()
    if INDEX not in known and _SINGLE in known:  # others are copies, or another format's
        weights = [known[_SINGLE]]
    missing = [name for name in (CONFIG, TOKENISER) if name not in known]
    if INDEX not in known and len(weights) > 1:
        missing.append(INDEX)
    if missing:
        raise UnsupportedFile(
            f"{repository} holds no GGUF file, and its safetensors lack {missing[0]}.",
            hint="Look for a repository with the whole model, or for a GGUF conversion.",
        )
    return (*weights, *(known[name] for name in TEXTS if name in known))


def _adapter(name: str) -> bool:
    return name.startswith("adapter_")
