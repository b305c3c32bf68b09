"""GGUF files made to hurt: what the writer would refuse to write, byte by byte.

Each case of `HOSTILE` is a file and what its refusal says; those of `FOREIGN` are something else
than GGUF, and what they are called.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from freehold.weights.gguf_types import TensorType, ValueType


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def u32_pair(key: str | bytes, value: int) -> bytes:
    return pair(key, ValueType.UINT32, struct.pack("<I", value))


def array_pair(kind: int, count: int, items: bytes = b"") -> bytes:
    return pair("k", ValueType.ARRAY, struct.pack("<IQ", kind, count) + items)


def tensor(
    name: str | bytes = "t",
    shape: tuple[int, ...] = (8,),
    kind: int = TensorType.F32,
    offset: int = 0,
    *,
    dimensions: int | None = None,
) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


def gguf(
    *parts: bytes,
    pairs: int = 0,
    tensors: int = 0,
    data: int = 0,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    header = struct.pack("<4sIQQ", b"GGUF", version, tensors, pairs) + b"".join(parts)
    return header + bytes(-len(header) % alignment) + bytes(data)


HOSTILE: Mapping[str, tuple[bytes, str]] = {
    "2^63 pairs": (gguf(pairs=2**63), "metadata entries, but 4,096"),
    "2^63 tensors": (gguf(tensors=2**63), "tensors, but 50,000"),
    "4,097 pairs": (gguf(bytes(4_097 * 14), pairs=4_097), "but 4,096 are the limit"),
    "50,001 tensors": (gguf(bytes(50_001 * 33), tensors=50_001), "but 50,000 are the limit"),
    "pairs that cannot be there": (gguf(pairs=4_000), "ends before the 4,000 metadata entries"),
    "tensors that cannot be there": (gguf(tensors=50_000), "ends before the 50,000 tensors"),
    "key of 2^64-1": (gguf(b"\xff" * 8 + bytes(64), pairs=1), "but 65,535 are the limit"),
    "string of 2^64-1": (
        gguf(pair("k", ValueType.STRING, b"\xff" * 8 + bytes(64)), pairs=1),
        "but 1,048,576 are the limit",
    ),
    "string beyond the end": (
        gguf(pair("k", ValueType.STRING, struct.pack("<Q", 1_000)), pairs=1),
        "ends before the value of k",
    ),
    "template of a byte too many": (
        gguf(
            pair("tokenizer.chat_template", ValueType.STRING, text(b" " * (2**20 + 1))),
            pairs=1,
        ),
        "but 1,048,576 are the limit",
    ),
    "array of 2^40": (gguf(array_pair(ValueType.UINT8, 2**40), pairs=1), "but 2,000,000"),
    "array that cannot be there": (
        gguf(array_pair(ValueType.FLOAT64, 2_000_000), pairs=1),
        "ends before the 2,000,000 items",
    ),
    "string in an array beyond the end": (
        gguf(array_pair(ValueType.STRING, 1, struct.pack("<Q", 5_000)), pairs=1),
        "ends before the value of k",
    ),
    "strings in an array that run out": (
        gguf(array_pair(ValueType.STRING, 9, struct.pack("<QQ", 40, 40) + bytes(88)), pairs=1),
        "ends before the value of k",
    ),
    "string of 2^64-1 in an array": (
        gguf(array_pair(ValueType.STRING, 1, b"\xff" * 8), pairs=1),
        "a string in the value of k",
    ),
    "arrays in arrays": (
        gguf(
            array_pair(ValueType.ARRAY, 1, struct.pack("<IQ", ValueType.ARRAY, 1) * 1_000),
            pairs=1,
        ),
        "an array of arrays",
    ),
    "array of an unknown type": (gguf(array_pair(13, 1, bytes(8)), pairs=1), "unknown type 13"),
    "value of an unknown type": (gguf(pair("k", 99, bytes(8)), pairs=1), "unknown type 99"),
    "bool of 2": (gguf(pair("k", ValueType.BOOL, b"\2"), pairs=1), "neither true nor false"),
    "bool of 2 in an array": (
        gguf(array_pair(ValueType.BOOL, 3, b"\1\2\0"), pairs=1),
        "neither true nor false",
    ),
    "text that is not UTF-8": (
        gguf(pair("k", ValueType.STRING, text(b"\xff\xfe")), pairs=1),
        "not UTF-8",
    ),
    "empty key": (gguf(u32_pair("", 1), pairs=1), "not printable ASCII"),
    "non-ASCII key": (gguf(u32_pair("schlüssel", 1), pairs=1), "not printable ASCII"),
    "key with a line feed": (gguf(u32_pair("a\nb", 1), pairs=1), "not printable ASCII"),
    "duplicate key": (gguf(u32_pair("k", 1) * 2, pairs=2), "the metadata key k appears twice"),
    "alignment as text": (
        gguf(pair("general.alignment", ValueType.STRING, text("32")), pairs=1),
        "of type STRING, not UINT32",
    ),
    "alignment as 64 bits": (
        gguf(pair("general.alignment", ValueType.UINT64, struct.pack("<Q", 32)), pairs=1),
        "of type UINT64, not UINT32",
    ),
    "architecture as number": (
        gguf(u32_pair("general.architecture", 1), pairs=1),
        "of type UINT32, not STRING",
    ),
    "template as number": (
        gguf(u32_pair("tokenizer.chat_template", 1), pairs=1),
        "of type UINT32, not STRING",
    ),
    "named template as number": (
        gguf(u32_pair("tokenizer.chat_template.tool_use", 1), pairs=1),
        "of type UINT32, not STRING",
    ),
    "split.count as 32 bits": (gguf(u32_pair("split.count", 1), pairs=1), "not UINT16"),
    **{
        f"alignment {value}": (gguf(u32_pair("general.alignment", value), pairs=1), problem)
        for value, problem in {
            0: "is not within 8 and 4,096",
            3: "is no power of two",
            4: "is not within 8 and 4,096",
            8_192: "is not within 8 and 4,096",
            2**31: "is not within 8 and 4,096",
            2**32 - 1: "is no power of two",
        }.items()
    },
    "dimensions of 2^33": (gguf(tensor(shape=(2**33, 2**33)), tensors=1), "larger than any memory"),
    "product of 2^64": (gguf(tensor(shape=(2**32, 2**32)), tensors=1), "larger than any memory"),
    "bytes beyond 2^64": (gguf(tensor(shape=(2**62, 1)), tensors=1), "larger than any memory"),
    "negative dimension": (gguf(tensor(shape=(2**64 - 32,)), tensors=1), "larger than any memory"),
    "2^32-1 dimensions": (gguf(tensor(dimensions=2**32 - 1), tensors=1), "has 4,294,967,295 dim"),
    "five dimensions": (gguf(tensor(shape=(1,) * 5), tensors=1), "has 5 dimensions"),
    "no dimensions": (gguf(tensor(shape=(), offset=0) + bytes(8), tensors=1), "has 0 dimensions"),
    "a dimension of 0": (gguf(tensor(shape=(8, 0)), tensors=1), "no elements"),
    "half a block": (gguf(tensor(shape=(48,), kind=TensorType.Q4_0), tensors=1), "multiple of 32"),
    "unknown tensor type": (gguf(tensor(kind=43), tensors=1), "unknown type 43"),
    "removed tensor type": (gguf(tensor(kind=31), tensors=1), "Q4_0_4_4, which ggml removed"),
    "nameless tensor": (gguf(tensor(name="") + bytes(1), tensors=1), "not printable"),
    "NUL in a name": (gguf(tensor(name="a\0b"), tensors=1), "not printable"),
    "name of 65 bytes": (gguf(tensor(name="n" * 65), tensors=1), "but 64 are the limit"),
    "duplicate tensor": (
        gguf(tensor(), tensor(offset=32), tensors=2, data=64),
        "the tensor t appears twice",
    ),
    "overlap": (gguf(tensor(), tensor("u"), tensors=2, data=64), "overlaps the one before"),
    "gap": (gguf(tensor(), tensor("u", offset=64), tensors=2, data=96), "leaves a gap"),
    "misaligned": (gguf(tensor(offset=8), tensors=1, data=64), "not a multiple of 32"),
    "offset of 2^64-32": (gguf(tensor(offset=2**64 - 32), tensors=1, data=32), "leaves a gap"),
    "sizes that add up beyond 2^63": (
        gguf(
            tensor(shape=(2**62,), kind=TensorType.I8),
            tensor("u", shape=(2**62,), kind=TensorType.I8, offset=2**62),
            tensors=2,
        ),
        "beyond the size of any file",
    ),
    "data beyond the end": (gguf(tensor(shape=(9,)), tensors=1, data=32), "last 4 are missing"),
    "2^60 bytes of data": (gguf(tensor(shape=(2**58,)), tensors=1, data=32), "are missing"),
    "trailing bytes": (gguf(tensor(), tensors=1, data=33), "1 bytes follow the end"),
    "a ZIP at the end": (
        gguf(tensor(), tensors=1, data=32) + b"PK\x03\x04" + bytes(60) + b"PK\x05\x06" + bytes(18),
        "follow the end of its tensors",
    ),
    "trailing bytes without tensors": (gguf(data=32), "follow the end of its tensors"),
    "version 0": (gguf(version=0), "its version is 0"),
    "half the magic": (b"GGU", "ends after 3 bytes"),
}

FOREIGN: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "pickle": (b"\x80\x02}q\0.", "Python pickle"),
    "old PyTorch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "Python pickle"),
    "PyTorch": (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "PyTorch checkpoint"),
    "ZIP": (b"PK\x03\x04" + bytes(26) + b"README.md", "ZIP archive"),
    "safetensors": (struct.pack("<Q", 40) + b'{"__metadata__":{}}', "safetensors"),
    "HTML": (b"\n<!DOCTYPE html><html><head>", "HTML or XML page"),
    "HTML with a mark": (b"\xef\xbb\xbf<html>", "HTML or XML page"),
    "XML error": (b"<?xml version='1.0'?><Error>AccessDenied", "HTML or XML page"),
    "JSON": (b'{"error": "Repository not found"}', "JSON document"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "GGML": (struct.pack("<I", 0x67676D6C) + bytes(40), "GGML file"),
    "GGMF": (struct.pack("<I", 0x67676D66) + bytes(40), "GGMF file"),
    "GGJT": (struct.pack("<I", 0x67676A74) + bytes(40), "GGJT file"),
    "GGLA": (struct.pack("<I", 0x67676C61) + bytes(40), "GGLA adapter"),
    "gzip": (b"\x1f\x8b\x08", "gzip archive"),
    "zeros": (bytes(4_096), "run of zero bytes"),
    "anything": (b"MZ\x90\0", "begins with b'MZ"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
    "version 1": (gguf(version=1), "version 1"),
    "version 4": (gguf(version=4), "version 4"),
}


def write_corpus(folder: Path) -> tuple[Path, ...]:
    """Every case as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (content, _) in enumerate((*HOSTILE.values(), *FOREIGN.values())):
        paths.append(folder / f"hostile-{number}.gguf")
        paths[-1].write_bytes(content)
    return tuple(paths)
