"""safetensors files made to hurt: each is a file and what its refusal says."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping


def safetensors(header: object, data: int = 0, *, length: int | None = None) -> bytes:
    """``header`` is JSON, or its bytes; ``data`` is how many bytes follow it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def tensor(
    begin: int, end: int, *, dtype: object = "F32", shape: object = None
) -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def entry(name: str, begin: int, end: int) -> bytes:
    return json.dumps({name: tensor(begin, end)}).encode()[1:-1]


SOUND = safetensors(
    {
        "__metadata__": {"format": "pt", "ä": "\n"},
        "b": tensor(8, 16, dtype="I64", shape=[]),
        "a": tensor(0, 8),
        "none": tensor(16, 16, shape=[0, 3]),
        "half": tensor(16, 17, dtype="F4", shape=[2]),
    },
    17,
)

HOSTILE: Mapping[str, tuple[bytes, str]] = {
    "seven bytes": (b"\1\0\0\0\0\0\0", "ends after 7 bytes"),
    "no header": (safetensors(b"", 1) + b"x", "does not begin with a brace"),
    "2^64-1 bytes of header": (safetensors({}, length=2**64 - 1), "are the limit"),
    "26 MB of header": (safetensors({}, length=26_300_000), "are the limit"),
    "a header that is not there": (safetensors({}, length=100), "ends before its header does"),
    "not UTF-8": (safetensors(b'{"\xff\xfe'), "not UTF-8"),
    "an array": (safetensors([]), "does not begin with a brace"),
    "space before": (safetensors(b" {}"), "does not begin with a brace"),
    "something behind": (safetensors(b"{}x"), "something follows"),
    "two objects": (safetensors(b"{}{}"), "something follows"),
    "no end": (safetensors(b'{"a"'), "is not JSON"),
    "a string without end": (safetensors(b'{"a'), "a string in its header is none"),
    "half a surrogate": (safetensors(b'{"a\\ud800x"'), "is not JSON"),
    "a comma too many": (safetensors(b'{"__metadata__":{},}'), "is not JSON"),
    "100,000 braces": (safetensors(b'{"a":' * 100_000), "not described by a flat object"),
    "100,000 brackets": (safetensors(b'{"a":' + b"[" * 100_000), "not described by a flat object"),
    "brackets in an entry": (
        safetensors(b'{"a":{"dtype":' + b"[" * 1_900 + b"}"),
        "the description of a is not JSON",
    ),
    "an entry of 3,000 bytes": (
        safetensors({"a": {"dtype": "F" * 3_000, "shape": [], "data_offsets": [0, 4]}}, 4),
        "not described by a flat object",
    ),
    "a number for an entry": (safetensors({"a": 1}), "not described by a flat object"),
    "metadata that is no text": (safetensors({"__metadata__": {"a": 1}}), "is not JSON"),
    "metadata of 4,097 entries": (
        safetensors({"__metadata__": {str(n): "" for n in range(4_097)}}),
        "more than 4,096 entries",
    ),
    "metadata twice": (safetensors(b'{"__metadata__":{},"__metadata__":{}}'), "appears twice"),
    "a metadata key twice": (
        safetensors(b'{"__metadata__":{"a":"","a":""}}'),
        "appears twice in its metadata",
    ),
    "a tensor twice": (
        safetensors(b"{" + entry("a", 0, 4) + b"," + entry("a", 4, 8) + b"}", 8),
        "a appears twice",
    ),
    "a key spelt otherwise": (
        safetensors(b"{" + entry("a", 0, 4) + b',"\\u0061":{}}', 8),
        "a appears twice",
    ),
    "a field twice": (
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"shape":[9]}}', 4),
        "each once",
    ),
    "a field too many": (safetensors({"a": {**tensor(0, 4), "x": 1}}, 4), "each once"),
    "a field too few": (safetensors({"a": {"dtype": "F32", "shape": [1]}}, 4), "each once"),
    "50,001 tensors": (
        safetensors({str(n): {**tensor(0, 0), "shape": [0]} for n in range(50_001)}),
        "more than 50,000 tensors",
    ),
    "a name of 1,025": (safetensors({"n" * 1_025: tensor(0, 4)}, 4), "more than 1,024 characters"),
    "an unknown type": (safetensors({"a": tensor(0, 4, dtype="F33")}, 4), "unknown type F33"),
    "a type that is a list": (safetensors({"a": tensor(0, 4, dtype=[])}, 4), "unknown type []"),
    "a shape that is text": (safetensors({"a": tensor(0, 4, shape="1")}, 4), "shape of a is none"),
    "a negative dimension": (safetensors({"a": tensor(0, 4, shape=[-1])}, 4), "shape of a is none"),
    "half a dimension": (safetensors({"a": tensor(0, 4, shape=[1.0])}, 4), "shape of a is none"),
    "true for a dimension": (safetensors({"a": tensor(0, 4, shape=[True])}, 4), "shape of a is"),
    "17 dimensions": (safetensors({"a": tensor(0, 4, shape=[1] * 17)}, 4), "shape of a is none"),
    "2^64 in a shape": (safetensors({"a": tensor(0, 4, shape=[2**64])}, 4), "shape of a is none"),
    "a product of 2^66": (
        safetensors({"a": tensor(0, 4, shape=[2**33, 2**33])}, 4),
        "do not fit its shape",
    ),
    "half a byte": (
        safetensors({"a": tensor(0, 1, dtype="F4", shape=[1])}, 1),
        "do not fit its shape",
    ),
    "offsets the wrong way": (safetensors({"a": tensor(4, 0, shape=[1])}, 4), "do not fit"),
    "three offsets": (
        safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, 8),
        "offsets of a are none",
    ),
    "a negative offset": (safetensors({"a": tensor(-4, 0, shape=[1])}, 4), "offsets of a are none"),
    "too short for its shape": (safetensors({"a": tensor(0, 4, shape=[2])}, 4), "do not fit"),
    "an overlap": (
        safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, 12),
        "b overlaps another tensor",
    ),
    "the same bytes twice": (
        safetensors({"a": tensor(0, 8), "b": tensor(0, 8)}, 8),
        "overlaps another tensor",
    ),
    "a hole": (safetensors({"a": tensor(0, 4), "b": tensor(8, 12)}, 12), "4 bytes before b belong"),
    "a hole at the start": (safetensors({"a": tensor(4, 8)}, 8), "4 bytes before a belong"),
    "data cut short": (safetensors({"a": tensor(0, 8)}, 7), "the last 1 are missing"),
    "a byte too many": (safetensors({"a": tensor(0, 8)}, 9), "1 bytes follow the end"),
    "bytes and no tensors": (safetensors({}, 8), "8 bytes follow the end"),
}

FOREIGN: Mapping[str, tuple[bytes, str]] = {
    **{
        f"pickle {protocol}": (pickle.dumps({"a": [1.0] * 99}, protocol), "a Python pickle")
        for protocol in (2, 3, 4, 5)
    },
    "PyTorch": (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "PyTorch checkpoint"),
    "ZIP": (b"PK\x03\x04" + bytes(26) + b"README.md", "ZIP archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5 (Keras) file"),
    "GGUF": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "a GGUF file"),
    "zeros": (safetensors(b""), "run of zero bytes"),
    "HTML": (b"<!DOCTYPE html><html><head>", "HTML or XML page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
}
