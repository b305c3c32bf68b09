"""What holds for all that judges strangers' bytes: no assert decides, nothing of theirs runs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import freehold

ROOT = Path(__file__).parents[2]
PACKAGE = Path(freehold.__file__).parent

JUDGES = (
    *("weights/", "trust/", "text/", "process/", "runtime/access/", "runtime/admission.py"),
    *("runtime/fairness.py", "api/guard.py", "api/auth.py", "api/limits.py", "api/bounds.py"),
)

# An assert may tell the type checker what is so by construction: `isinstance`, `is not None`.
_OPENING = {"Unpickler", "load_module", "exec_module"}
_RUNNING = {"eval", "exec", "compile", "__import__"}
_LOADERS = {"load", "full_load", "unsafe_load", "load_all", "full_load_all", "unsafe_load_all"}


def trees(parts: tuple[str, ...] = ("",)) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(parts):
            yield name, ast.parse(path.read_text())


def decisions_by_assert(tree: ast.Module) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and not _narrows(node.test)
    ]


def _narrows(test: ast.expr) -> bool:
    match test:
        case ast.Call(func=ast.Name(id="isinstance")):
            return True
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
        case ast.BoolOp(op=ast.And(), values=values):
            return all(map(_narrows, values))
    return False


def test_no_decision_hangs_on_an_assert() -> None:
    assert {
        name: lines for name, tree in trees(JUDGES) if (lines := decisions_by_assert(tree))
    } == {}


@pytest.mark.parametrize(
    "source",
    ["assert safe(x)", "assert x", "assert len(x) < 9", "assert x is None", "assert a != b"],
)
def test_a_decision_by_assert_is_caught(source: str) -> None:
    assert decisions_by_assert(ast.parse(source)) == [1]
    assert decisions_by_assert(ast.parse("assert x is not None and isinstance(y, int)")) == []


def runs_strangers_code(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in _RUNNING:
                found.append(f"line {node.lineno}: {name}()")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr=name)):
                if name in _LOADERS:
                    found.append(f"line {node.lineno}: yaml.{name}()")
            case ast.Call(func=ast.Attribute(attr="extractall" | "unpack_archive")):
                found.append(f"line {node.lineno}: unpacks an archive")
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in _OPENING:
                found.append(f"line {node.lineno}: {name}")
            case ast.keyword(arg="shell" | "trust_remote_code"):
                found.append(f"line {node.lineno}: {node.arg}")
    return found


def test_nothing_runs_what_strangers_wrote() -> None:
    assert {name: found for name, tree in trees() if (found := runs_strangers_code(tree))} == {}


@pytest.mark.parametrize(
    "source",
    [
        *("eval(x)", "yaml.load(x)", "archive.extractall(y)", "run(x, shell=True)"),
        *("pickle.Unpickler(f)", "from_pretrained(x, trust_remote_code=True)"),
    ],
)
def test_running_what_strangers_wrote_is_caught(source: str) -> None:
    assert runs_strangers_code(ast.parse(source))


# The tests whose refusals must not vanish with `assert`; those that take long are left out.
SECURITY = (
    *("test_hostile_gguf.py", "test_safetensors.py", "test_template.py", "test_template_audit.py"),
    *("test_rogue_hub.py", "test_reference.py", "test_keys.py"),
)
CONTRACTS = ("test_security_cases.py", "test_routes_enumerated.py")
QUICK = (
    "not no_engine and not takes_long and not whole_process and not compressed and not without_end"
    " and not dribbles and not thousand and not connection and not does_not_read"
)
PLAIN = {"PYTHONOPTIMIZE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def test_the_refusals_hold_without_asserts() -> None:
    files = [f"tests/unit/{name}" for name in SECURITY]
    files += [f"tests/contract/{name}" for name in CONTRACTS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-m", "not native", "-k", QUICK),
            # Tests' own asserts are rewritten, so they hold; pytest warns of the rest.
            *("-W", "ignore::pytest.PytestConfigWarning", *files),
        ],
        cwd=ROOT,
        env={**os.environ, **PLAIN},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


def test_asserts_of_tests_hold_under_the_same_setting(tmp_path: Path) -> None:
    """Otherwise the run above would pass whatever happened."""
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert not __debug__\n    assert 0\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-W", "ignore::pytest.PytestConfigWarning", str(tmp_path)),
        ],
        cwd=tmp_path,
        env={**os.environ, **PLAIN},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "assert 0" in done.stdout
