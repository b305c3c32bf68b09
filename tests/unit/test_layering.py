"""The strata: which way imports run, and who alone may do certain things."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import freehold

ROOT = Path(freehold.__file__).parent

# A module imports only from its own stratum or from those before it.
STRATA = (
    *("domain", "process", "weights", "deploy", "trust", "machine", "text"),
    *("engines", "runtime", "api", "lab", "cli"),
)
DIALECTS = ("openai", "anthropic", "ollama")

# Top-level package → the folders and files that may import it.
RESERVED = {
    "llama_cpp": ("text/vocabulary.py", "engines/llamacpp/binding/"),
    "llguidance": ("text/constraint/",),
    "jinja2": ("text/template.py", "trust/template_"),
    "fastapi": ("api/",),
    "starlette": ("api/",),
    "uvicorn": ("api/",),
    "huggingface_hub": ("weights/sources/",),
    "pynvml": ("machine/gpu.py",),
    "pickle": (),
    "marshal": (),
    "shelve": (),
}
# The last runs in vLLM's environment, and imports nothing of freehold.
ENVIRONMENT = (
    "domain/settings.py",
    "weights/sources/quiet.py",
    "engines/vllm/starts_vllm.py",
)
ENVIRONMENT_NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


@dataclass(frozen=True)
class Module:
    """``path`` is relative to the package, with slashes."""

    path: str
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Absolute dotted names, those of `from` imports down to the last part."""
        package = ["freehold", *self.path.split("/")[:-1]]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                name = ".".join([*base, *([node.module] if node.module else [])])
                yield from (f"{name}.{alias.name}" for alias in node.names)

    @property
    def stratum(self) -> str | None:
        first, slash, _ = self.path.partition("/")
        return first if slash else None


def modules(root: Path) -> list[Module]:
    return [
        Module(path.relative_to(root).as_posix(), ast.parse(path.read_text()))
        for path in sorted(root.rglob("*.py"))
    ]


def wrong_directions(root: Path) -> list[str]:
    found = []
    for module in modules(root):
        if module.stratum is None:
            found += [f"{module.path}: imports {name}" for name in _ours(module)]
            continue
        if module.stratum not in STRATA:
            found.append(f"{module.path}: {module.stratum} is no stratum")
            continue
        for name in _ours(module):
            parts = name.split(".")
            if parts[1] not in STRATA or STRATA.index(parts[1]) > STRATA.index(module.stratum):
                found.append(f"{module.path}: imports {name}")
    return found


def _ours(module: Module) -> list[str]:
    return [name for name in module.imports() if name.startswith("freehold.")]


def dialects_that_meet(root: Path) -> list[str]:
    return [
        f"{module.path}: imports {name}"
        for module in modules(root)
        for dialect in DIALECTS
        for other in DIALECTS
        if other != dialect and module.path.startswith(f"api/{dialect}/")
        for name in module.imports()
        if name.startswith(f"freehold.api.{other}.")
    ]


def reserved_imports(root: Path) -> list[str]:
    return [
        f"{module.path}: imports {name}"
        for module in modules(root)
        for name in module.imports()
        if (allowed := RESERVED.get(name.split(".")[0])) is not None
        if not module.path.startswith(allowed)
    ]


def readers_of_the_environment(root: Path) -> list[str]:
    found = []
    for module in modules(root):
        if module.path in ENVIRONMENT:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT_NAMES:
                if isinstance(node.value, ast.Name) and node.value.id == "os":
                    found.append(f"{module.path}: os.{node.attr}")
            elif isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names} & ENVIRONMENT_NAMES
                found += [f"{module.path}: os.{name}" for name in sorted(names)]
    return found


def heavy_words(root: Path) -> list[str]:
    """Third-party imports of `domain`, other than platformdirs."""
    light = {*sys.stdlib_module_names, "freehold", "platformdirs"}
    return [
        f"{module.path}: imports {name}"
        for module in modules(root)
        if module.stratum == "domain"
        for name in module.imports()
        if name.split(".")[0] not in light
    ]


CHECKS = (
    wrong_directions,
    dialects_that_meet,
    reserved_imports,
    readers_of_the_environment,
    heavy_words,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_stands(check: Callable[[Path], list[str]]) -> None:
    assert check(ROOT) == []


def test_the_walk_sees_the_whole_package() -> None:
    assert {module.stratum for module in modules(ROOT)} >= {
        *("domain", "process", "weights", "machine", "text"),
        *("engines", "runtime", "api", "cli"),
    }


def tree(root: Path, path: str, source: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return root


@pytest.mark.parametrize(
    "source",
    [
        "import freehold.api.app",
        "from freehold.api import app",
        "from ..api import app",
        "def late():\n    from freehold.api import app",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import freehold.api.app",
        "from freehold import api",
    ],
)
def test_an_import_upwards_is_caught(tmp_path: Path, source: str) -> None:
    assert wrong_directions(tree(tmp_path, "text/child.py", source))
    assert not wrong_directions(tree(tmp_path, "text/child.py", "import freehold.domain.chat"))


def test_a_room_nobody_planned_is_caught(tmp_path: Path) -> None:
    assert wrong_directions(tree(tmp_path, "utils/things.py", ""))


def test_the_faces_may_use_the_api_but_not_the_other_way(tmp_path: Path) -> None:
    assert not wrong_directions(tree(tmp_path, "cli/serve.py", "import freehold.api.server"))
    assert wrong_directions(tree(tmp_path, "api/app.py", "import freehold.cli.main"))


def test_a_dialect_in_another_is_caught(tmp_path: Path) -> None:
    source = "from freehold.api.openai.schema import Message"
    assert dialects_that_meet(tree(tmp_path, "api/ollama/convert.py", source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engines/llamacpp/loop.py", "import llama_cpp.llama_cpp as native"),
        ("weights/store.py", "from pickle import loads"),
        ("runtime/chat.py", "from fastapi import Request"),
        ("cli/pull.py", "def pull():\n    import huggingface_hub"),
    ],
)
def test_a_reserved_import_is_caught(tmp_path: Path, path: str, source: str) -> None:
    assert reserved_imports(tree(tmp_path, path, source))


@pytest.mark.parametrize(
    "source",
    ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"],
)
def test_reading_the_environment_is_caught(tmp_path: Path, source: str) -> None:
    assert readers_of_the_environment(tree(tmp_path, "process/child.py", source))


def test_a_heavy_word_is_caught(tmp_path: Path) -> None:
    assert heavy_words(tree(tmp_path, "domain/chat.py", "import pydantic"))


def loaded_by(module: str) -> set[str]:
    """Top-level packages in memory after a fresh interpreter imported ``module``."""
    code = f"import {module}, sys, json; print(json.dumps([*sys.modules]))"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(result.stdout)}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("freehold.domain.settings", {"pydantic", "msgspec", "numpy", "httpx2"}),
        ("freehold.api.app", {"llama_cpp", "huggingface_hub"}),
        ("freehold.runtime.wiring", {"llama_cpp", "huggingface_hub", "fastapi"}),
        ("freehold.cli.main", {"llama_cpp", "huggingface_hub", "numpy", "fastapi", "jinja2"}),
        ("freehold.cli.run", {"llama_cpp", "huggingface_hub"}),
        ("freehold.cli.serve", {"llama_cpp", "huggingface_hub"}),
        ("freehold.text.client", {"llama_cpp", "jinja2"}),
        ("freehold.engines.llamacpp.client", {"llama_cpp"}),
    ],
)
def test_what_an_import_does_not_load(module: str, absent: set[str]) -> None:
    loaded = loaded_by(module)
    assert "freehold" in loaded
    assert not loaded & absent
