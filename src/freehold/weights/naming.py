"""What remote things may be called: files, and a hub's repositories and revisions.

Names come from strangers and end up in messages, locks and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from freehold.domain.errors import InvalidReference, UnsupportedFile

_SEGMENT = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9_.+=,@()\[\]-]{0,199}", re.ASCII)
_MAX_DEPTH = 8
_OWNER_OR_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_OWNER_OR_NAME}/{_OWNER_OR_NAME}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*", re.ASCII)
_MAX_REVISION = 200
_FILTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", re.ASCII)

# Windows gives these names, with any ending, to devices; manifests and locks travel.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE | re.ASCII)

# Formats whose opening may run code that came with them: pickles, and archives of pickles.
_PICKLES = (
    *(".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"),
    *(".h5", ".keras", ".nemo"),
)
_PROGRAMS = (".py", ".sh", ".js", ".so", ".exe")
# Formats that we do not run, or that are no weights at all.
_OTHERS = (
    *(".safetensors", ".onnx", ".msgpack", ".mlmodel", ".tflite"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".whl"),
    *(".json", ".yaml", ".yml", ".md", ".txt"),
)
_CONVERTED = "Repositories whose name ends in -GGUF usually hold a converted copy."
_DEFAULT_NAME = "model.gguf"


def is_path(text: object) -> bool:
    """Whether ``text`` is a relative path of plain names: no ``..``, no root, no odd characters."""
    if not isinstance(text, str):
        return False
    segments = text.split("/")
    return len(segments) <= _MAX_DEPTH and all(
        _SEGMENT.fullmatch(part) and not _DEVICE.fullmatch(part) for part in segments
    )


def require_path(text: str) -> str:
    """Return ``text`` when it is a path as `is_path` says; raises `InvalidReference`."""
    if not is_path(text):
        raise InvalidReference(
            f"{text!r} is not an acceptable file name.",
            hint="Names are relative, use letters, digits and _.+=,@()[]- and never '..'.",
        )
    return text


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def refuse_other_formats(name: str) -> None:
    """Raise `UnsupportedFile` when ``name`` says that the file is a pickle or not GGUF.

    There is no way to insist: nothing that may run code of its own is ever opened.
    """
    if may_run_code(name):
        raise UnsupportedFile(
            f"{name} is not a GGUF file and may run code of its own; freehold never opens such "
            "files.",
            hint=_CONVERTED,
            values={"file": name},
        )
    if name.lower().endswith(_OTHERS):
        raise UnsupportedFile(
            f"{name} is not a GGUF file; freehold runs GGUF files only.",
            hint=_CONVERTED,
            values={"file": name},
        )


def may_run_code(name: str) -> bool:
    """Whether a file of that name is a program, or of a format that can hide one."""
    return name.lower().endswith((*_PICKLES, *_PROGRAMS))


def name_at(path: str) -> str:
    """What to call the file at the decoded ``path`` of an address."""
    last = path.rpartition("/")[2]
    return last if is_path(last) else _DEFAULT_NAME


def is_repository(text: str) -> bool:
    """Whether a hub may have a repository of that name."""
    forbidden = "--" in text or ".." in text or text.endswith(".git")
    return _REPOSITORY.fullmatch(text) is not None and not forbidden


def require_repository(text: str) -> str:
    """Return ``text`` when a hub may have a repository of that name, or `InvalidReference`."""
    if not is_repository(text):
        raise InvalidReference(
            f"{text!r} is not a repository of the hub.", hint="Write it as owner/name."
        )
    return text


def require_revision(text: str | None) -> str | None:
    """Return ``text`` when it may be a branch, tag or commit, or `InvalidReference`."""
    if text is None:
        return None
    if len(text) > _MAX_REVISION or ".." in text or not _REVISION.fullmatch(text):
        raise InvalidReference(
            f"{text!r} is not a revision.", hint="Give a branch, a tag or a commit."
        )
    return text


def require_choice(text: str) -> str:
    """Return ``text`` when it is a path ending in .gguf, or a quantisation or part of a name.

    Raises `InvalidReference`, or `UnsupportedFile` when it names another format.
    """
    if is_gguf(text):
        return require_path(text)
    refuse_other_formats(text)
    if not _FILTER.fullmatch(text):
        raise InvalidReference(
            f"{text!r} names neither a GGUF file nor a quantisation.",
            hint="Write a file such as model-Q4_K_M.gguf, or a quantisation such as Q4_K_M.",
        )
    return text


def names_auto_map(configuration: object, *, most: int) -> bool:
    """Whether the key that names code to be run is anywhere in what was read of a JSON file.

    What has more than ``most`` values is not looked through, and taken to have it.
    """
    waiting, seen = [configuration], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if isinstance(value, Mapping):
            if "auto_map" in value:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        if seen > most:
            return True
    return False
