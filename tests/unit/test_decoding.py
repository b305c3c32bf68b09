"""Decoding in many threads: the first meeting with a type must be over before the second."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import freehold

SOURCE = Path(freehold.__file__).parent
# Where msgspec's own decoders are called.
HOME = SOURCE / "process" / "decoding.py"

_FIRST_MEETINGS = """
    import sys, threading
    import msgspec
    from freehold.process.decoding import from_json, from_values, json_decoder

    sys.setswitchinterval(1e-6)
    ways = (
        lambda kind: from_values({"inner": [{"a": 1, "b": ["x"]}]}, kind),
        lambda kind: from_json(b'{"inner": [{"a": 1, "b": ["x"]}]}', kind),
        lambda kind: json_decoder(kind).decode(b'{"inner": [{"a": 1, "b": ["x"]}]}'),
    )

    def meet(number, kind, barrier):
        barrier.wait()
        assert ways[number % 3](kind).inner[0].b == ("x",)

    for _ in range(150):
        inner = msgspec.defstruct("Inner", [("a", "int"), ("b", "tuple[str, ...]")])
        outer = msgspec.defstruct("Outer", [("inner", tuple[inner, ...])])
        barrier = threading.Barrier(6)
        threads = [threading.Thread(target=meet, args=(n, outer, barrier)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("whole")
"""


def test_a_type_is_first_met_in_one_thread() -> None:
    """Without the lock this ends with SIGSEGV (msgspec 0.22.0)."""
    program = textwrap.dedent(_FIRST_MEETINGS)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_nobody_else_calls_the_decoders() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        if path != HOME
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _decodes(node)
    ]
    assert found == []


def _decodes(call: ast.Call) -> bool:
    """A decoder of msgspec's that is given a type. Without one it builds plain values."""
    name = ast.unparse(call.func)
    typed = bool(call.args[1:]) or any(word.arg == "type" for word in call.keywords)
    if name.endswith((".Decoder", ".convert")) and name.startswith("msgspec."):
        return True
    return name in ("msgspec.json.decode", "msgspec.msgpack.decode") and typed
