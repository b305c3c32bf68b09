"""Which flags the native build needs from this machine's C++ compiler.

llama.cpp's AMX kernels fill a tile configuration in memory and load it with
`ldtilecfg`. GCC up to 12.3 and 13.0 to 13.2 deletes those stores as dead
(GCC bug 114098), and the first decode dies. `-fno-tree-dse -fno-dse` keeps
them; one of the two alone is not enough. Compilers without the bug, and
compilers that do not know the flags, get none.

This file imports only the standard library: the Makefile runs it before
anything is installed, and `freehold doctor` imports it for the rebuild command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

AMX_WORKAROUND = ("-fno-tree-dse", "-fno-dse")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler by what it predefines. ``version`` is (major, minor)."""

    family: str
    version: tuple[int, int]
    target_x86_64: bool


def parse_macros(text: str) -> Compiler:
    """Read the output of ``c++ -dM -E -x c++ /dev/null``."""
    macros: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split(maxsplit=2)
        if len(words) >= 2 and words[0] == "#define":
            macros[words[1]] = words[2] if len(words) == 3 else ""
    if "__clang__" in macros:
        family, major, minor = "clang", "__clang_major__", "__clang_minor__"
    elif "__GNUC__" in macros:
        family, major, minor = "gcc", "__GNUC__", "__GNUC_MINOR__"
    else:
        return Compiler("unknown", (0, 0), "__x86_64__" in macros)
    version = (int(macros.get(major, "0")), int(macros.get(minor, "0")))
    return Compiler(family, version, "__x86_64__" in macros)


def drops_tile_stores(compiler: Compiler) -> bool:
    """True where GCC bug 114098 breaks AMX. GCC before 11 cannot emit AMX at all."""
    if compiler.family != "gcc" or not compiler.target_x86_64:
        return False
    return (11, 0) <= compiler.version < (12, 4) or (13, 0) <= compiler.version < (13, 3)


def native_flags(compiler: Compiler) -> tuple[str, ...]:
    """The extra C++ flags this compiler needs to build llama.cpp correctly."""
    return AMX_WORKAROUND if drops_tile_stores(compiler) else ()


def find_compiler(name: str = "c++") -> Compiler | None:
    """The compiler called ``name`` (CMake takes ``CXX``, else ``c++``), or None."""
    command = shutil.which(name)
    if command is None:
        return None
    try:
        result = subprocess.run(
            [command, "-dM", "-E", "-x", "c++", os.devnull],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_macros(result.stdout)


if __name__ == "__main__":
    found = find_compiler(*sys.argv[1:2])
    print(" ".join(native_flags(found)) if found else "")
