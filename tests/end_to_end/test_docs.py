"""The documentation's commands, executed as they stand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import environment

pytestmark = [pytest.mark.weights, pytest.mark.native]

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
_BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = "freehold serve >/dev/null 2>&1 &\ncurl -so /dev/null --retry 30 --retry-connrefused "
SERVE += "--retry-delay 1 http://127.0.0.1:7333/healthz\n"


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, match in enumerate(_BLOCK.finditer(page.read_text("utf-8"))):
            if match["kind"] == kind:
                found.append((f"{page.name}-{number}", match["body"]))
    return found


def execute(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a block in a shell of its own; what it leaves in the background ends with it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment(home, {"PATH": path, "PYTHONWARNINGS": ""}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        process.wait(600)
    finally:
        os.killpg(process.pid, signal.SIGTERM) if _group_lives(process.pid) else None
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(script, process.returncode, out, err)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("body", [b for _, b in blocks("sh")], ids=[n for n, _ in blocks("sh")])
def test_shell_block(body: str, home: Path, weights: Path) -> None:
    done = execute(body, home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "body", [b for _, b in blocks("python")], ids=[n for n, _ in blocks("python")]
)
def test_python_block(body: str, home: Path, weights: Path) -> None:
    done = execute(f"{SERVE}{sys.executable} - <<'END'\n{body}END\n", home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_dependency_is_documented() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in project["project"]["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        assert f"| {name} |" in listed, name
