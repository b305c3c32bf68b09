"""Which compilers break AMX, told from what they predefine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from freehold.machine import compiler
from freehold.machine.compiler import (
    AMX_WORKAROUND,
    Compiler,
    find_compiler,
    native_flags,
    parse_macros,
)


def gcc(major: int, minor: int, target: str = "x86_64") -> str:
    """Some of what ``c++ -dM -E -x c++ /dev/null`` prints."""
    return "\n".join(
        [
            "#define __SIZE_MAX__ 0xffffffffffffffffUL",
            "#define __cpp_attributes 200809L",
            f"#define __GNUC__ {major}",
            f"#define __GNUC_MINOR__ {minor}",
            f"#define __{target}__ 1",
            "#define __EMPTY",
            '#define __VERSION__ "made up"',
        ]
    )


CLANG = gcc(4, 2) + "\n#define __clang__ 1\n#define __clang_major__ 17\n#define __clang_minor__ 0\n"


@pytest.mark.parametrize(
    ("version", "broken"),
    [
        ((10, 5), False),
        ((11, 0), True),
        ((11, 5), True),
        ((12, 2), True),
        ((12, 3), True),
        ((12, 4), False),
        ((13, 0), True),
        ((13, 2), True),
        ((13, 3), False),
        ((14, 0), False),
        ((15, 1), False),
    ],
)
def test_gcc(version: tuple[int, int], broken: bool) -> None:
    found = parse_macros(gcc(*version))
    assert found == Compiler("gcc", version, target_x86_64=True)
    assert native_flags(found) == (AMX_WORKAROUND if broken else ())


def test_clang_says_it_is_gcc_4_2_and_is_not() -> None:
    found = parse_macros(CLANG)
    assert found == Compiler("clang", (17, 0), target_x86_64=True)
    assert native_flags(found) == ()


def test_gcc_for_another_processor_has_no_amx() -> None:
    found = parse_macros(gcc(12, 2, "aarch64"))
    assert found == Compiler("gcc", (12, 2), target_x86_64=False)
    assert native_flags(found) == ()


@pytest.mark.parametrize("text", ["", "no macros here", "#define", "#define _MSC_VER 1940"])
def test_an_unknown_compiler_gets_no_flags(text: str) -> None:
    found = parse_macros(text)
    assert found.family == "unknown"
    assert native_flags(found) == ()


def fake_compiler(folder: Path, macros: str, status: int = 0) -> Path:
    (folder / "macros").write_text(macros)
    path = folder / "fake-c++"
    path.write_text(f'#!/bin/sh\ncat "{folder / "macros"}"\nexit {status}\n')
    path.chmod(0o755)
    return path


def as_script(*arguments: str | Path) -> str:
    return subprocess.run(
        [sys.executable, "-I", compiler.__file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("macros", "line"), [(gcc(12, 2), "-fno-tree-dse -fno-dse\n"), (gcc(14, 1), "\n")]
)
def test_the_script_prints_the_flags(tmp_path: Path, macros: str, line: str) -> None:
    assert as_script(fake_compiler(tmp_path, macros)) == line


def test_the_script_prints_an_empty_line_where_there_is_no_compiler(tmp_path: Path) -> None:
    assert as_script(tmp_path / "no-such-compiler") == "\n"


def test_a_compiler_that_fails_is_none(tmp_path: Path) -> None:
    assert find_compiler(str(fake_compiler(tmp_path, gcc(12, 2), status=1))) is None
