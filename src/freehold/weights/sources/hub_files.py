"""From a hub's listing of a repository and a choice to the files that make up a model.

Pure: nothing here asks anyone, and nothing the hub says is believed to have
the shape it should.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freehold.domain.error_values import Values
from freehold.domain.errors import InvalidReference, SourceUnavailable, UnsupportedFile
from freehold.weights.files import is_sha256
from freehold.weights.naming import is_gguf, is_path, may_run_code, names_auto_map
from freehold.weights.sources.base import RemoteFile
from freehold.weights.sources.hub_safetensors import checkpoint_of

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<parts>[0-9]{5})\.gguf", re.ASCII)
# Files that go with a model and are none: image projectors, quantisation statistics.
_COMPANION = re.compile(r"(?:mmproj|imatrix)[-_.]|.*[-_.](?:mmproj|imatrix)[-_.]", re.IGNORECASE)
_DECLARED = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,200}")
_MAX_LISTED = 40
_MAX_CONFIGURATION = 10_000  # values looked at

_AUTO_MAP = "its configuration asks for code of its own to be run (auto_map)"
_CHOOSE = "Name a quantisation or a file: hf:{repository}:Q4_K_M or hf:{repository}:<file>.gguf"


@dataclass(frozen=True)
class _Candidate:
    """One model as the hub holds it: a file, or the parts of a split file in their order."""

    files: tuple[RemoteFile, ...]

    @property
    def name(self) -> str:
        return self.files[0].name

    def __str__(self) -> str:
        parts = f", {len(self.files)} parts" if len(self.files) > 1 else ""
        sizes = [file.size for file in self.files if file.size is not None]
        size = _readable(sum(sizes)) if len(sizes) == len(self.files) else "size unknown"
        return f"{self.name} ({size}{parts})"


def choose(
    files: Iterable[RemoteFile], choices: tuple[str, ...] | None, repository: str
) -> tuple[RemoteFile, ...]:
    """The files that ``choices`` mean (None: the only model there is), in their order.

    Raises `UnsupportedFile` (nothing here is GGUF), `InvalidReference` (a choice
    fits no file, or several), or `SourceUnavailable` (a part is missing).
    """
    candidates = _candidates(files)
    if not candidates:
        raise UnsupportedFile(
            f"{repository} holds no GGUF file; freehold runs GGUF files only.",
            hint="Repositories whose name ends in -GGUF usually hold a converted copy.",
            values={"repository": repository},
        )
    if choices is None:
        chosen = [_the_only(_models(candidates), repository)]
    else:
        chosen = [_chosen(candidates, choice, repository) for choice in choices]
    for candidate in chosen:
        _require_whole(candidate, repository)
    return tuple(dict.fromkeys(file for one in chosen for file in one.files))


def _candidates(files: Iterable[RemoteFile]) -> dict[str, _Candidate]:
    # Part numbers have leading zeros, so names in order are parts in order.
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.name):
        groups.setdefault(_first_part(file.name), []).append(file)
    return {name: _Candidate(tuple(group)) for name, group in groups.items()}


def _models(candidates: Mapping[str, _Candidate]) -> list[_Candidate]:
    models = [one for name, one in candidates.items() if not _COMPANION.match(_base(name))]
    return models or list(candidates.values())


def _chosen(candidates: Mapping[str, _Candidate], choice: str, repository: str) -> _Candidate:
    if is_gguf(choice):
        found = candidates.get(_first_part(choice))
        if found is None:
            raise _no_such(choice, list(candidates.values()), repository)
        return found
    # A whole word of the name: Q4_K must not take Q4_K_M, nor Q4_K_M take IQ4_K_M.
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(choice)}(?![A-Za-z0-9_])", re.IGNORECASE)
    matching = [one for one in _models(candidates) if word.search(one.name)]
    if not matching:
        raise _no_such(choice, list(candidates.values()), repository)
    return _the_only(matching, repository)


def _the_only(candidates: Sequence[_Candidate], repository: str) -> _Candidate:
    if len(candidates) == 1:
        return candidates[0]
    raise InvalidReference(
        f"{repository} holds {len(candidates)} GGUF models that this may mean: "
        f"{_listing(candidates)}.",
        hint=_CHOOSE.format(repository=repository),
        values=_choices(repository, candidates),
    )


def _no_such(choice: str, candidates: Sequence[_Candidate], repository: str) -> InvalidReference:
    return InvalidReference(
        f"{repository} holds no {choice}; it has {_listing(candidates)}.",
        hint=_CHOOSE.format(repository=repository),
        values=_choices(repository, candidates),
    )


def _choices(repository: str, candidates: Sequence[_Candidate]) -> Values:
    return {
        "repository": repository,
        "choices": tuple(str(one) for one in candidates[:_MAX_LISTED]),
    }


def _require_whole(candidate: _Candidate, repository: str) -> None:
    present = {file.name for file in candidate.files}
    missing = [name for name in _all_parts(candidate.name) if name not in present]
    if missing:
        more = f" and {len(missing) - 1} more parts" if len(missing) > 1 else ""
        raise SourceUnavailable(
            f"The split file is incomplete: {repository} lacks {missing[0]}{more}.",
            values={"file": missing[0]},
        )


def _listing(candidates: Sequence[_Candidate]) -> str:
    shown = ", ".join(map(str, candidates[:_MAX_LISTED]))
    left = len(candidates) - _MAX_LISTED
    return f"{shown} and {left} more" if left > 0 else shown


def _first_part(name: str) -> str:
    """The name that stands for all parts of a split file; any other name is its own."""
    match = _split(name)
    return name if match is None else f"{match['stem']}-00001-of-{match['parts']}.gguf"


def _all_parts(name: str) -> list[str]:
    match = _split(name)
    if match is None:
        return [name]
    stem, parts = match["stem"], match["parts"]
    return [f"{stem}-{part:05}-of-{parts}.gguf" for part in range(1, int(parts) + 1)]


def _split(name: str) -> re.Match[str] | None:
    match = _SPLIT.fullmatch(name)
    return match if match is not None and 1 <= int(match["part"]) <= int(match["parts"]) else None


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _readable(size: int) -> str:
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_each:
            return f"{size / bytes_each:.1f} {unit}"
    return f"{size} bytes"


# What the hub says, none of it believed to have the shape it should.


def safetensors_of(info: ModelInfo, repository: str) -> tuple[RemoteFile, ...]:
    """The model in safetensors, where there is no GGUF file; none where there is no such model.

    Raises `UnsupportedFile` for one that needs code of its own, or is not whole.
    """
    listed = _files(info, lambda name: not is_gguf(name))
    if _gguf_files(info) or not any(file.name.endswith(".safetensors") for file in listed):
        return ()
    if names_auto_map(getattr(info, "config", None), most=_MAX_CONFIGURATION):
        raise _needing_code(info, _AUTO_MAP)
    try:
        return checkpoint_of(listed, repository)
    except UnsupportedFile:
        files_of(info)  # what may run code is the better reason
        raise


def files_of(info: ModelInfo) -> list[RemoteFile]:
    """The GGUF files; one whose name we would refuse from the user is not offered at all.

    Of a repository that has some, nothing else is ever fetched, whatever lies beside them. Raises
    `UnsupportedFile` for one that has none and whose model needs code of its own.
    """
    files = _gguf_files(info)
    reason = None if files else _needs_code(info)
    if reason is not None:
        raise _needing_code(info, reason)
    return files


def _needing_code(info: ModelInfo, reason: str) -> UnsupportedFile:
    return UnsupportedFile(
        f"{info.id} holds no GGUF file, and {reason}, which freehold never does.",
        hint="Look for a GGUF conversion of this model: it brings no code.",
    )


def _needs_code(info: ModelInfo) -> str | None:
    """Why whoever opens this model would have to run code that came with it."""
    if names_auto_map(getattr(info, "config", None), most=_MAX_CONFIGURATION):
        return _AUTO_MAP
    names = (sibling.rfilename for sibling in info.siblings or ())
    runnable = sorted(name for name in names if is_path(name) and may_run_code(name))
    if not runnable:
        return None
    more = f" and {len(runnable) - 1} more" if len(runnable) > 1 else ""
    return f"opening {runnable[0]}{more} may run code of its own"


def _gguf_files(info: ModelInfo) -> list[RemoteFile]:
    return _files(info, is_gguf)


def _files(info: ModelInfo, wanted: Callable[[str], bool]) -> list[RemoteFile]:
    return [
        RemoteFile(
            sibling.rfilename,
            size=_size(sibling.size),
            sha256=_digest(sibling.lfs.sha256 if sibling.lfs is not None else None),
        )
        for sibling in info.siblings or ()
        if is_path(sibling.rfilename) and wanted(sibling.rfilename)
    ]


def _size(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _digest(value: object) -> str | None:
    return value if isinstance(value, str) and is_sha256(value) else None


def licence_of(info: ModelInfo) -> str | None:
    """The licence the card declares; for ``other``, the name it gives with it."""
    declared = _declared(info, "license")
    if declared == ("other",):
        declared = _declared(info, "license_name") or declared
    return ", ".join(declared) or None


def base_models_of(info: ModelInfo) -> tuple[str, ...]:
    """The models the card declares this one was made from."""
    return _declared(info, "base_model")


def _declared(info: ModelInfo, field: str) -> tuple[str, ...]:
    # A card that is no mapping passes through the library as whatever it is.
    value: object = getattr(info.card_data, field, None)
    items = value if isinstance(value, list) else [value]
    return tuple(item for item in items if isinstance(item, str) and _DECLARED.fullmatch(item))
