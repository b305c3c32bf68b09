"""What a file is that is not GGUF, told from its first bytes.

People name the wrong file, and downloads leave error pages behind. Saying which
it was is worth more than "bad magic". Nothing here opens or decodes the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from freehold.domain.errors import InvalidModelFile, UnsupportedFile
from freehold.weights.gguf_types import MAGIC

SNIFFED: Final = 1_024
"""How many of the first bytes `refuse_foreign` looks at."""

FETCH_AGAIN: Final = (
    "Fetch the file again; if a fresh copy is refused too, it was published broken."
)
FETCH_GGUF: Final = "Freehold runs GGUF files: look for a GGUF conversion of this model."
BAD_DOWNLOAD: Final = "The download went wrong and left this in its place: fetch the file again."
SAFETENSORS: Final = "a safetensors file"
_CODE: Final = "Such a file can run code when it is opened. Look for a GGUF file of this model."

_PREFIXES: Final[tuple[tuple[bytes, str, str], ...]] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, a few lines that stand for the real file",
        "Run `git lfs pull` where it was cloned, or fetch the model with freehold.",
    ),
    (b"lmgg", "a GGML file, the unversioned format before GGUF", FETCH_GGUF),
    (b"fmgg", "a GGMF file, a format before GGUF", FETCH_GGUF),
    (b"tjgg", "a GGJT file, a format before GGUF", FETCH_GGUF),
    (b"algg", "a GGLA adapter, a format before GGUF", FETCH_GGUF),
    (b"FUGG", "a GGUF file with its bytes swapped", FETCH_GGUF),
    (b"PK\x03\x04", "a ZIP archive", FETCH_GGUF),
    (b"PK\x05\x06", "a ZIP archive", FETCH_GGUF),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and name the GGUF file inside."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it and name the GGUF file inside."),
    # Pickle protocols 2 to 5, as torch.save once wrote them.
    (b"\x80\x02", "a Python pickle, probably a PyTorch checkpoint", _CODE),
    (b"\x80\x03", "a Python pickle, probably a PyTorch checkpoint", _CODE),
    (b"\x80\x04", "a Python pickle, probably a PyTorch checkpoint", _CODE),
    (b"\x80\x05", "a Python pickle, probably a PyTorch checkpoint", _CODE),
    (b"\x89HDF\r\n", "an HDF5 (Keras) file", _CODE),
    (b"\x93NUMPY", "a NumPy array", FETCH_GGUF),
)
_HTML: Final = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")


def refuse_foreign(path: Path, head: bytes) -> None:
    """Return if ``head``, the first bytes of the file, can begin a GGUF file.

    Otherwise raises `UnsupportedFile`, or `InvalidModelFile` for a file that
    stops inside the magic number.
    """
    if head.startswith(MAGIC):
        return
    if MAGIC.startswith(head):
        raise InvalidModelFile(
            f"{path.name} is not a well-formed GGUF file: it ends after {len(head)} bytes.",
            hint=FETCH_AGAIN,
        )
    kind, hint = recognise(head)
    what = kind or f"a file that begins with {head[:4]!r}"
    raise UnsupportedFile(f"{path.name} is {what}, not a GGUF model.", hint=hint)


def recognise(head: bytes) -> tuple[str | None, str]:
    """What a file that begins so is, None for what nobody knows, and what to do about it."""
    # A safetensors file is the length of its JSON header, 8 bytes, and that header. This comes
    # first: a length of 640 begins as a pickle does.
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        return SAFETENSORS, FETCH_GGUF
    if head.startswith(b"PK\x03\x04") and b"data.pkl" in head:
        return "a PyTorch checkpoint (a ZIP archive with a pickle inside)", _CODE
    for prefix, kind, hint in _PREFIXES:
        if head.startswith(prefix):
            return kind, hint
    if not head.strip(b"\0"):
        return "a run of zero bytes", BAD_DOWNLOAD
    return _recognise_text(head)


def _recognise_text(head: bytes) -> tuple[str | None, str]:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_HTML):
        return "an HTML or XML page", BAD_DOWNLOAD
    if text.startswith(b"{"):
        return "a JSON document", "Name the GGUF file, or fetch it again if this should be it."
    return None, FETCH_GGUF
