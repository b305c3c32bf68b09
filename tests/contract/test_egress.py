"""Nothing leaves: whole runs of the command, observed, cut off, and with connections planted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from freehold.process.kernel import this_machine
from freehold.trust import notifications, strace
from freehold.trust.attempts import Process
from tests.support import alone
from tests.support.command import FREEHOLD, environment, freehold, serving
from tests.support.plant import (
    GATEWAY_BINDS,
    GATEWAY_STARTS_A_CHILD,
    HOST,
    NATIVE_PORT,
    PYTHON_PORT,
    WORKER_CONFINED,
    Point,
    plant,
)
from tests.support.tiny_model import write_tiny_llama

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(this_machine() is None, reason="Linux on x86-64 or ARM only"),
]

_ROOT = Path(__file__).parents[2]

needs_strace = pytest.mark.skipif(not strace.usable(), reason="strace cannot be used here")
needs_notifications = pytest.mark.skipif(
    not notifications.usable(), reason="this kernel has no notifications"
)
needs_namespaces = pytest.mark.skipif(
    not alone.possible(), reason="user namespaces are forbidden here"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


# Cut off


@needs_namespaces
def test_from_a_file_to_an_answer_without_any_network(home: Path, tiny: Path) -> None:
    def cut_off(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            alone.command(FREEHOLD, *words),
            cwd=_ROOT,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    taken = cut_off("import", str(tiny), "--name", "mine:tiny")
    assert taken.returncode == 0, taken.stderr
    answered = cut_off("run", "mine:tiny", "hi", "--max-tokens", "5")
    assert answered.returncode == 0, answered.stderr
    served = cut_off("doctor", "--egress", "mine:tiny", "--json")
    assert served.returncode == 0, served.stderr
    report = json.loads(served.stdout)
    assert report["tokens"] > 0
    assert report["left"] == 0


# Observed


@needs_strace
def test_a_run_makes_no_connection(home: Path, tiny: Path, tmp_path: Path) -> None:
    written = tmp_path / "strace"
    done = subprocess.run(
        [*strace.prefix(str(written)), FREEHOLD, "run", str(tiny), "hi", "--max-tokens", "5"],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    reader = strace.Reader(lambda thread: Process(thread, ""))
    seen = [attempt for line in written.read_text().splitlines() for attempt in reader.read(line)]
    assert [str(attempt) for attempt in seen if attempt.leaves] == []


@needs_strace
def test_planted_in_the_gateway(home: Path, tiny: Path, tmp_path: Path) -> None:
    result = freehold(
        home, "doctor", "--egress", str(tiny), "--json", extra=plant(tmp_path, GATEWAY_BINDS)
    )
    assert result.status == 1
    assert ports_of(result.json, "freehold.cli.main") == {PYTHON_PORT, NATIVE_PORT}


@needs_strace
def test_planted_in_a_worker(home: Path, tiny: Path, tmp_path: Path) -> None:
    """Both are refused their socket; the native one goes on regardless and has no address."""
    result = freehold(home, "doctor", "--egress", str(tiny), extra=plant(tmp_path, WORKER_CONFINED))
    assert result.status == 1
    seen = [line for line in result.out.splitlines() if line.startswith("!")]
    assert all("freehold.engines.llamacpp.worker" in line for line in seen)
    assert sum("socket AF_INET refused" in line for line in seen) == 2
    assert sum(f"{HOST} port {NATIVE_PORT} refused" in line for line in seen) == 1
    assert "need attention" in result.err


@needs_notifications
def test_planted_where_there_is_no_strace(home: Path, tiny: Path, tmp_path: Path) -> None:
    """strace is found on the PATH; here there is none."""
    extra = plant(tmp_path, GATEWAY_BINDS) | {"PATH": str(tmp_path)}
    result = freehold(home, "doctor", "--egress", str(tiny), "--json", extra=extra)
    assert result.status == 1
    assert "notifications" in result.json["observed_by"]
    assert result.json["not_observed"]
    assert ports_of(result.json, "freehold.cli.main") == {PYTHON_PORT, NATIVE_PORT}


def ports_of(report: Any, process: str) -> set[int]:
    """Of the attempts that leave; all are that process's, and to the planted address."""
    left = [attempt for attempt in report["attempts"] if attempt["leaves"]]
    assert len(left) == report["left"]
    assert {attempt["address"] for attempt in left} == {HOST}
    assert {attempt["family"] for attempt in left} == {"AF_INET"}
    assert all(process in attempt["process"] for attempt in left)
    return {attempt["port"] for attempt in left}


def test_a_model_needs_to_be_observed(home: Path, tiny: Path) -> None:
    refused = freehold(home, "doctor", str(tiny))
    assert refused.status == 2
    assert "--egress" in refused.err
    absent = freehold(home, "doctor", "--egress", "qwen2.5-coder:0.5b")
    assert absent.status == 5
    assert "freehold pull" in absent.err


# Confined


@pytest.fixture(scope="module")
def family(home: Path, tiny: Path) -> Iterator[dict[str, psutil.Process]]:
    """The processes of a server that is offline and has answered, by module."""
    with serving(home, str(tiny), "--offline") as server:
        freehold(home, "run", str(tiny), "hi", "--max-tokens", "3")
        gateway = psutil.Process(server.process.pid)
        found = {child.cmdline()[3]: child for child in gateway.children()}
        yield {**found, "gateway": gateway}


def status_of(process: psutil.Process) -> set[tuple[str, str]]:
    """Of all its threads: (NoNewPrivs, Seccomp)."""
    found = set()
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        pairs = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        found.add((pairs["NoNewPrivs"], pairs["Seccomp"]))
    return found


@pytest.mark.parametrize(
    "module", ["freehold.text.child", "freehold.engines.llamacpp.worker", "gateway"]
)
def test_every_thread_is_confined(family: dict[str, psutil.Process], module: str) -> None:
    assert status_of(family[module]) == {("1", "2")}


def test_the_worker_holds_one_socket_and_it_is_the_wire(
    family: dict[str, psutil.Process],
) -> None:
    for module in ("freehold.text.child", "freehold.engines.llamacpp.worker"):
        assert family[module].net_connections("inet") == []
    (listening,) = [
        each for each in family["gateway"].net_connections("inet") if each.status == "LISTEN"
    ]
    assert listening.laddr.ip == "127.0.0.1"


def test_doctor_tells_what_it_tried(home: Path) -> None:
    said = {item["name"]: item for item in freehold(home, "doctor", "--json").json}
    assert "tried" in said["Children's network"]["value"]
    assert said["Children's writing"]["value"]
    assert "not offline" in said["Gateway"]["value"]
    offline = freehold(home, "doctor", "--json", extra={"FREEHOLD_OFFLINE": "1"}).json
    said = {item["name"]: item for item in offline}
    assert "nobody" in said["Gateway"]["value"]
    assert said["Gateway"]["ok"]


# Offline


@pytest.mark.parametrize(
    ("point", "met"),
    [
        # Native code is not the hook's to see; at that point there is nothing else yet.
        (GATEWAY_BINDS, "OfflineRefused"),
        (GATEWAY_STARTS_A_CHILD, "PermissionError"),
    ],
)
def test_an_offline_gateway_refuses_a_planted_connection(
    tiny: Path, tmp_path: Path, point: Point, met: str
) -> None:
    home, diary = tmp_path / "home", tmp_path / "diary"
    extra = plant(tmp_path / "plant", point, diary)
    with serving(home, str(tiny), "--offline", extra=extra):
        answered = freehold(home, "run", str(tiny), "hi", "--max-tokens", "3")
        assert "by the server" in answered.err
        python, native = diary.read_text().splitlines()
    assert python == f"python: {met}"
    assert (native == "native: -1") is (point is GATEWAY_STARTS_A_CHILD)


def test_offline_imports_no_downloader(tiny: Path, tmp_path: Path) -> None:
    words = ("-X", "importtime", "-P", "-m", "freehold.cli.main", "run", str(tiny), "hi")
    done = subprocess.run(
        [sys.executable, *words, "--max-tokens", "3", "--offline"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "freehold.runtime.wiring" in imported
    downloaders = {"http", "hub", "hub_library", "hub_repository", "url"}
    assert not {f"freehold.weights.sources.{name}" for name in downloaders} & imported
    assert not {"huggingface_hub", "hf_xet", "freehold.weights.origins", "pip"} & imported
