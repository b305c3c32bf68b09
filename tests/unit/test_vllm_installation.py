"""What counts as installed, and what an installation refuses before it begins."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pytest

from freehold.domain.errors import (
    DiskFull,
    EngineInstallFailed,
    EngineNotInstalled,
    OfflineRefused,
    StoreBusy,
    UnsupportedFile,
)
from freehold.engines.vllm.installation import VERSION, Build, Installed, Place
from freehold.engines.vllm.installing import Installer
from freehold.lab.convert import require_plain
from freehold.machine.computer import Processor


def installed(place: Place, version: str = VERSION) -> Installed:
    record = Installed(Build.CPU, version, "2.13.0", "2026-11-30T00:00:00+00:00", 5)
    place.python.parent.mkdir(parents=True, exist_ok=True)
    place.python.touch()
    place.record.write_bytes(msgspec.json.encode(record))
    return record


def installer(place: Place, *, offline: bool = False) -> tuple[Installer, list[str]]:
    said: list[str] = []
    return Installer(place, Build.CPU, said.append, {}, offline), said


def test_an_environment_without_its_record_is_not_installed(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    assert place.installed() is None
    installed(place)
    place.record.write_bytes(b"{")  # the disk was full
    with pytest.raises(EngineNotInstalled, match="not installed") as caught:
        place.require()
    assert caught.value.hint == "Install it with: freehold engine install vllm"


def test_another_version_is_not_spoken_with(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    installed(place, "0.1.0")
    with pytest.raises(EngineNotInstalled, match=rf"0\.1\.0 .* {VERSION}"):
        place.require()


def test_what_is_here_is_not_installed_again(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    record = installed(place)
    again, said = installer(place, offline=True)
    assert again.install() == record
    assert said == []


def test_offline_fetches_nothing(tmp_path: Path) -> None:
    refused, _ = installer(Place.of(tmp_path), offline=True)
    with pytest.raises(OfflineRefused):
        refused.install()
    assert not Place.of(tmp_path).folder.exists()


def test_a_disk_too_small_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 10**10, 10**9))
    place = Place.of(tmp_path)
    small, said = installer(place)
    with pytest.raises(DiskFull, match=r"6 GB of disk; 1\.0 GB are free"):
        small.install()
    assert "6 GB" in said[0]
    assert not place.environment.exists()


def test_a_processor_that_could_not_run_it_is_said_before_anything_is_fetched(
    tmp_path: Path,
) -> None:
    place, said = Place.of(tmp_path), list[str]()
    old = Processor("Old Xeon", "x86_64", 4, instruction_sets=("avx",))
    with pytest.raises(EngineInstallFailed, match=r"AVX2; this one \(Old Xeon\) has none"):
        Installer(place, Build.CPU, said.append, {}, processor=old).install()
    assert said == []
    assert not place.folder.exists()


def test_what_is_killed_takes_pip_with_it(tmp_path: Path) -> None:
    """By a program that installs from an index which never answers."""
    program = (
        "import os, pathlib, sys\n"
        "from freehold.engines.vllm.installation import Build, Place\n"
        "from freehold.engines.vllm.installing import Installer\n"
        "place = Place.of(pathlib.Path(sys.argv[1]))\n"
        "Installer(place, Build.CPU, print, dict(os.environ)).install()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as mute:
        index = f"http://127.0.0.1:{mute.getsockname()[1]}/simple"
        environ = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull}
        installing = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.DEVNULL,
            env={**environ, "PIP_INDEX_URL": index},
        )
        try:
            mute.settimeout(60)
            asking, _ = mute.accept()
        finally:
            pip = psutil.Process(installing.pid).children(recursive=True)
            installing.kill()
            installing.wait()
        asking.close()
    assert pip
    _, left = psutil.wait_procs(pip, timeout=10)
    assert left == []
    with Place.of(tmp_path).locked():
        pass


def test_an_index_out_of_reach_is_said_in_one_sentence(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
    }
    said: list[str] = []
    cut_off = Installer(Place.of(tmp_path), Build.CPU, said.append, environ)
    with pytest.raises(EngineInstallFailed, match=r"index .* cannot be reached") as caught:
        cut_off.install()
    assert "run the same command again" in (caught.value.hint or "")
    assert Place.of(tmp_path).installed() is None


def test_what_outlives_a_killed_command_keeps_others_out(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    with place.locked() as lock:
        pip = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, pass_fds=(lock,))
    try:  # whoever started it is gone
        with pytest.raises(StoreBusy), place.locked():
            pass
    finally:
        pip.communicate()
    with place.locked(), pytest.raises(StoreBusy), place.locked():
        pass


def test_of_what_was_broken_off_only_the_downloads_are_kept(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    half = place.environment / "lib" / "half_a_package"
    half.mkdir(parents=True)
    place.downloads.mkdir()
    (place.downloads / "fetched").touch()

    class Stopped(Exception):
        """As far as this test goes."""

    def say(line: str) -> None:
        if "Collecting" in line or "ERROR" in line or "asked as well" in line:
            raise Stopped

    environ = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0", "PATH": os.defpath}
    with pytest.raises(Stopped):
        Installer(place, Build.CPU, say, environ).install()
    assert place.python.exists()
    assert not half.exists()
    assert (place.downloads / "fetched").exists()
    assert place.installed() is None


def test_removed_is_gone(tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    installed(place)
    place.remove()
    assert place.installed() is None
    assert not place.folder.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b'{"auto_map": {"AutoModel": "evil.Model"}}'),
        ("modeling_x.py", b"import os"),
        ("weights.bin", b"\x80\x04"),
    ],
)
def test_code_does_not_come_along_with_weights(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedFile, match=name.replace(".", r"\.")):
        require_plain(tmp_path)
