"""The page as it is served, and the routes it needed: conversations, the catalogue, papers."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import httpx2
import pytest

from freehold.api.web.page import POLICY, built
from freehold.domain.errors import DiskFull, StoreBusy, Unavailable
from freehold.engines.scripted import Script
from freehold.runtime.conversations import Conversations
from freehold.runtime.kept import KeptMessage, Wishes
from tests.support import page_api
from tests.support.gateway import Gateway, Scripts, gateway, wait_for

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

ROOT = "/freehold/v1/conversations"
NOBODY = "0" * 32


def begun(server: Gateway, **fields: Any) -> str:
    response = server.client.post(ROOT, json={"model": "tiny", **fields})
    assert response.status_code == 200, response.text
    identity: str = response.json()["id"]
    return identity


def ask(server: Gateway, identity: str, parent: str | None, text: str, **fields: Any) -> str:
    body = {"parent": parent, "content": text, **fields}
    response = server.client.post(f"{ROOT}/{identity}/messages", json=body)
    assert response.status_code == 200, response.text
    asked: str = response.json()["id"]
    return asked


def answer(server: Gateway, identity: str, parent: str, model: str = "tiny") -> str:
    response = server.client.post(
        f"{ROOT}/{identity}/answers", json={"parent": parent, "model": model}
    )
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "running"
    begun: str = response.json()["id"]
    return begun


def watched(server: Gateway, identity: str, message: str) -> list[dict[str, Any]]:
    response = server.client.get(f"{ROOT}/{identity}/messages/{message}/events")
    assert response.status_code == 200, response.text
    return [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]


def whole(server: Gateway, identity: str) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get(f"{ROOT}/{identity}").json()
    return found


# The page


def test_the_page_or_how_to_build_it(server: Gateway) -> None:
    response = server.client.get("/")
    assert response.status_code == 200
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    if built():
        assert '<div id="page">' in response.text
    else:
        assert "make web" in response.text
    assert server.client.head("/").status_code == 200


def test_the_policy_allows_no_other_place() -> None:
    allowed = {word for part in POLICY.split("; ") for word in part.split()[1:]}
    assert allowed == {"'none'", "'self'", "data:", "'script'", "svelte-trusted-html"}
    assert POLICY.startswith("default-src 'none'; ")


@pytest.mark.parametrize("path", ["/assets/..%2fpage.py", "/assets/../index.html", "/assets/"])
def test_no_address_leads_out_of_the_folder(server: Gateway, path: str) -> None:
    assert server.client.get(path).status_code == 404


def test_what_is_built_is_read_once_and_asks_for_nothing_inline(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "assets" / "a.js").write_text("x" * 5000)
    files = built(tmp_path)
    assert set(files) == {"index.html", "assets/a.js"}
    packed = files["assets/a.js"].packed
    assert packed is not None
    assert len(packed) < 5000
    for name, file in built().items():
        if name == "index.html":
            assert not re.search(rb"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=", file.data)


def test_the_types_of_the_page_are_those_of_the_api(server: Gateway) -> None:
    present = page_api.used_part(server.client.get("/openapi.json").json())
    assert page_api.STORED.read_text() == page_api.text(present), "run `make web-types`"


# Browsers where keys are needed


def test_the_link_lets_one_browser_in_once(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key="a-secret") as server:
        printed = re.search(r"http://[^/]+(/enter\?code=\S+)", capsys.readouterr().out)
        assert printed is not None
        address = printed[1]
        assert server.client.get(ROOT).status_code == 401
        assert server.client.get("/").status_code == 200  # it holds no secret
        assert server.client.get("/enter?code=wrong").status_code == 403
        let_in = server.client.get(address)
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
        cookie = let_in.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "max-age" not in cookie
        assert server.client.get(ROOT).status_code == 200  # the client keeps the cookie
        elsewhere = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert server.client.get(ROOT, headers=elsewhere).status_code == 403
        assert server.client.delete("/freehold/v1/session").status_code == 204
        assert server.client.get(ROOT).status_code == 401
        assert server.client.get(address).status_code == 403  # once


def test_a_key_becomes_a_cookie_and_holds_as_long_as_the_key(tiny: Path, tmp_path: Path) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key="a-secret") as server:
        session = "/freehold/v1/session"
        assert server.client.post(session, json={"key": "wrong"}).status_code == 401
        nobody: dict[str, object] = {"key": None, "scopes": [], "models": []}
        assert server.client.get(session).json() == nobody
        assert server.client.post(session, json={"key": "a-secret"}).status_code == 204
        begun(server)
        assert server.client.get(ROOT).json()["total"] == 1
        made = server.client.post("/freehold/v1/keys", json={"name": "guest", "scopes": ["infer"]})
        guest = made.json()["key"]
        server.client.cookies.clear()
        assert server.client.post(session, json={"key": guest}).status_code == 204
        assert server.client.get(session).json()["key"] == "guest"
        assert server.client.get(session).json()["scopes"] == ["infer"]
        assert server.client.get(ROOT).json()["total"] == 0  # each key its own
        with_key = {"Authorization": "Bearer a-secret"}
        revoked = server.client.delete("/freehold/v1/keys/guest", headers=with_key)
        assert revoked.status_code in (200, 204)
        assert server.client.get(ROOT).status_code == 401


# Conversations


def test_a_question_and_its_answer(server: Gateway) -> None:
    identity = begun(server)
    question = ask(server, identity, None, "Hello there\nand more")
    answered = answer(server, identity, question)
    first, *more, last = watched(server, identity, answered)
    assert (first["type"], last["type"]) == ("whole", "whole")
    said = first["message"]["content"] + "".join(one["content"] for one in more)
    assert said == last["message"]["content"] == "All is well."
    figures = last["message"]["figures"]
    assert figures["completion_tokens"] == 3
    assert figures["finish_reason"] == "stop"
    assert figures["context"] == 256
    conversation = whole(server, identity)
    assert conversation["title"] == "Hello there"
    assert conversation["leaf"] == answered
    assert [one["status"] for one in conversation["messages"]] == ["done", "done"]


def test_leaving_does_not_stop_an_answer_and_watchers_miss_nothing(
    server: Gateway, scripts: Scripts
) -> None:
    pieces = tuple(f"{number} " for number in range(60))
    scripts.now = Script(pieces=pieces, token_seconds=0.01)
    identity = begun(server)
    answered = answer(server, identity, ask(server, identity, None, "Count"))
    with server.client.stream("GET", f"{ROOT}/{identity}/messages/{answered}/events") as leaving:
        next(leaving.iter_lines())
    first, *more, last = watched(server, identity, answered)
    said = first["message"]["content"] + "".join(one["content"] for one in more)
    assert said == last["message"]["content"] == "".join(pieces)
    assert watched(server, identity, answered) == [last]  # one that has ended is told once


def test_stop_keeps_what_was_said(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("word ",) * 200, token_seconds=0.02)
    identity = begun(server)
    answered = answer(server, identity, ask(server, identity, None, "Go on"))
    address = f"{ROOT}/{identity}/messages/{answered}"
    wait_for(lambda: "word" in whole(server, identity)["messages"][1]["content"])
    stopped = server.client.post(f"{address}/stop", json={}).json()
    assert stopped["status"] == "stopped"
    assert stopped["content"].startswith("word ")
    assert server.engines[-1].cancelled
    assert server.client.post(f"{address}/stop", json={}).json() == stopped  # again: no harm


def test_branches_are_told_to_the_model_as_they_are(server: Gateway, scripts: Scripts) -> None:
    identity = begun(server, system="Be brief.")
    first = ask(server, identity, None, "One")
    watched(server, identity, one := answer(server, identity, first))
    ask(server, identity, None, "Never sent")
    second = ask(server, identity, one, "Two", files=[{"name": "a.md", "text": "```\nx\n```"}])
    seen = server.client.get(f"{ROOT}/{identity}/messages/{second}/prompt").json()
    expected = server.client.post(
        "/apply-template",
        json={
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "One"},
                {"role": "assistant", "content": "All is well."},
                {"role": "user", "content": "a.md\n````\n```\nx\n```\n````\n\nTwo"},
            ],
        },
    ).json()
    assert seen == expected
    watched(server, identity, answer(server, identity, second))
    assert scripts.asked is not None
    assert len(scripts.asked.prompt) == seen["token_count"]


def test_wishes_reach_the_engine(server: Gateway, scripts: Scripts) -> None:
    wishes = {"temperature": 0.5, "top_k": 7, "seed": 3, "max_tokens": 2}
    identity = begun(server, wishes=wishes)
    watched(server, identity, answer(server, identity, ask(server, identity, None, "Hello")))
    assert scripts.asked is not None
    sampling = scripts.asked.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.5, 7, 3)
    assert whole(server, identity)["messages"][1]["figures"]["finish_reason"] == "length"
    changed = server.client.patch(f"{ROOT}/{identity}", json={"wishes": {"top_k": 9}}).json()
    assert changed["wishes"] == {**dict.fromkeys(changed["wishes"]), "top_k": 9}


def test_failures_are_kept_with_their_reason(server: Gateway, scripts: Scripts) -> None:
    identity = begun(server)
    question = ask(server, identity, None, "Hello")
    unknown = answer(server, identity, question, model="no-such-model")
    failed = watched(server, identity, unknown)[-1]["message"]
    assert "no-such-model" in failed["error"]
    assert failed["error_code"] == "model_not_found"
    assert failed["error_values"]["model"] == "no-such-model"
    assert whole(server, identity)["messages"][-1]["error_values"] == failed["error_values"]
    scripts.now = Script(pieces=("Half ", "of it"), crash_after=2)
    crashed = watched(server, identity, answer(server, identity, question))[-1]["message"]
    assert (crashed["status"], crashed["content"]) == ("failed", "Half of it")


def test_search_rename_choose_and_delete(server: Gateway) -> None:
    identity = begun(server)
    one = ask(server, identity, None, "50% of Äpfel_x")
    two = ask(server, identity, None, "Else")
    for text, found in (("50%", True), ("5_%", False), ("apfel", False), ("ELSE", True)):
        listed = server.client.get(ROOT, params={"containing": text}).json()
        assert (identity in [each["id"] for each in listed["data"]]) is found, text
        assert listed["total"] == len(listed["data"])
    change = {"title": "Fruit", "leaf": one}
    assert server.client.patch(f"{ROOT}/{identity}", json=change).json()["leaf"] == one
    assert (whole(server, identity)["title"], two) != ("", one)
    assert server.client.delete(f"{ROOT}/{identity}").status_code == 204
    assert server.client.get(f"{ROOT}/{identity}").status_code == 404


def test_deleting_stops_what_is_written(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("word ",) * 500, token_seconds=0.02)
    identity = begun(server)
    answer(server, identity, ask(server, identity, None, "Go on"))
    wait_for(lambda: "word" in whole(server, identity)["messages"][1]["content"])
    before = len(server.engines[-1].cancelled)
    assert server.client.delete(f"{ROOT}/{identity}").status_code == 204
    assert len(server.engines[-1].cancelled) == before + 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/{NOBODY}", None, 404),
        ("GET", "/not-an-id", None, 400),
        ("POST", f"/{NOBODY}/messages", {"parent": None, "content": "x"}, 404),
        ("POST", f"/{NOBODY}/answers", {"parent": NOBODY, "model": "tiny"}, 404),
        ("POST", f"/{NOBODY}/messages/{NOBODY}/stop", {}, 404),
        ("GET", f"/{NOBODY}/messages/{NOBODY}/events", None, 404),
        ("GET", f"/{NOBODY}/messages/{NOBODY}/prompt", None, 404),
        ("PATCH", f"/{NOBODY}", {"title": "x" * 201}, 400),
        ("PATCH", f"/{NOBODY}", {"titel": "x"}, 400),
        ("POST", "", {"wishes": {"temperature": 3}}, 400),
        ("DELETE", f"/{NOBODY}", None, 404),
        ("GET", "?limit=0", None, 400),
    ],
)
def test_what_is_refused(server: Gateway, method: str, path: str, body: Any, status: int) -> None:
    arguments = {} if body is None else {"json": body}
    response: httpx2.Response = server.client.request(method, ROOT + path, **arguments)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


def test_only_questions_are_answered_and_only_in_their_conversation(server: Gateway) -> None:
    identity, other = begun(server), begun(server)
    question = ask(server, identity, None, "Hello")
    watched(server, identity, answered := answer(server, identity, question))
    body = {"parent": answered, "model": "tiny"}
    assert server.client.post(f"{ROOT}/{identity}/answers", json=body).status_code == 400
    assert (
        server.client.post(f"{ROOT}/{other}/answers", json={**body, "parent": question}).status_code
        == 404
    )
    assert (
        server.client.post(
            f"{ROOT}/{other}/messages", json={"parent": question, "content": "x"}
        ).status_code
        == 404
    )
    assert server.client.get(f"{ROOT}/{other}/messages/{answered}/events").status_code == 404


def test_they_outlive_the_server_and_what_was_cut_off_says_so(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "state" / "conversations.sqlite"
    with gateway(tmp_path, (tiny,), script=lambda _: Script()) as server:
        identity = begun(server)
        watched(server, identity, answer(server, identity, ask(server, identity, None, "Hello")))
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE message SET status = 'running' WHERE role = 'assistant'")
    connection.close()
    with gateway(tmp_path, (tiny,), script=lambda _: Script()) as server:
        told = whole(server, identity)["messages"]
        assert [one["content"] for one in told] == ["Hello", "All is well."]
        assert told[1]["status"] == "interrupted"
        assert server.client.get(ROOT).json()["kept"] is True


def test_the_end_of_the_server_keeps_what_was_said(tiny: Path, tmp_path: Path) -> None:
    script = Script(pieces=("word ",) * 1000, token_seconds=0.01)
    with gateway(tmp_path, (tiny,), script=lambda _: script) as server:
        identity = begun(server)
        answer(server, identity, ask(server, identity, None, "Go on"))
        wait_for(lambda: "word" in whole(server, identity)["messages"][1]["content"])
    kept = Conversations(tmp_path / "state" / "conversations.sqlite")
    _, last = kept.messages("local", identity)
    kept.close()
    assert (last.status, last.content[:5]) == ("stopped", "word ")


def test_switched_off_nothing_is_written(tiny: Path, tmp_path: Path) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), conversations=False) as server:
        identity = begun(server)
        ask(server, identity, None, "A secret")
        assert server.client.get(ROOT).json()["kept"] is False
        assert len(whole(server, identity)["messages"]) == 1
    assert not list(tmp_path.rglob("conversations*"))


# The file


def question(text: str = "x", identity: str = "1" * 32) -> KeptMessage:
    return KeptMessage(id=identity, parent=None, role="user", content=text, created=1.0)


def test_one_owner_sees_nothing_of_another() -> None:
    kept = Conversations(None)
    mine = kept.add("a", "Mine", None, "", Wishes())
    kept.add_message("a", mine.id, question())
    assert kept.headings("b", "", 10) == ([], 0)
    for look in (kept.heading, kept.messages, kept.delete):
        with pytest.raises(Exception, match="no conversation"):
            look("b", mine.id)
    kept.close()


def test_what_is_deleted_is_no_longer_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conversations.sqlite"
    kept = Conversations(path)
    made = kept.add("a", "", None, "", Wishes())
    kept.add_message("a", made.id, question("a very secret sentence"))
    kept.delete("a", made.id)
    kept.close()
    assert [file for file in tmp_path.iterdir() if b"very secret" in file.read_bytes()] == []


def test_a_full_disk_a_held_file_and_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "conversations.sqlite"
    kept = Conversations(path)
    made = kept.add("a", "", None, "", Wishes())
    assert kept._opened is not None
    (pages,) = kept._opened.execute("PRAGMA page_count").fetchone()
    kept._opened.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull):
        kept.add_message("a", made.id, question("x" * 100_000))
    assert kept.messages("a", made.id) == []
    kept._opened.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        kept.delete("a", made.id)
    other.execute("PRAGMA user_version = 99")
    other.execute("COMMIT")
    other.close()
    kept.close()
    with pytest.raises(Unavailable, match="newer freehold"):
        Conversations(path).headings("a", "", 1)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"not a database" * 1000)
    with pytest.raises(Unavailable, match="cannot be read"):
        Conversations(broken).headings("a", "", 1)


@pytest.mark.parametrize(
    ("version", "lacked"),
    [
        (1, ("tokens", "error_values", "error_code")),
        (2, ("tokens", "error_values")),
        (3, ("tokens",)),
    ],
)
def test_conversations_of_an_older_freehold(
    tmp_path: Path, version: int, lacked: tuple[str, ...]
) -> None:
    path = tmp_path / "conversations.sqlite"
    kept = Conversations(path)
    made = kept.add("a", "", None, "", Wishes())
    kept.add_message("a", made.id, question("from before"))
    kept.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as older:
        for column in lacked:
            older.execute(f"ALTER TABLE message DROP COLUMN {column}")
        older.execute(f"PRAGMA user_version = {version}")
    for _ in range(2):
        kept = Conversations(path)
        (message,) = kept.messages("a", made.id)
        assert (message.content, message.error_code) == ("from before", None)
        assert (message.tokens, message.resumable) == (b"", False)
        kept.close()


# Papers


def test_the_catalogue_the_disk_and_the_papers(server: Gateway) -> None:
    rows = server.client.get("/freehold/v1/catalogue").json()["data"]
    assert "qwen2.5-coder:0.5b" in [row["reference"] for row in rows if not row["here"]]
    disk = server.client.get("/freehold/v1/disk").json()
    assert disk["used"] == 0
    assert disk["free"] > 0
    papers = server.client.get("/freehold/v1/papers", params={"model": "tiny"}).json()
    assert papers["run"] == "UNKNOWN"
    assert papers["lineage"]["parents"] == []
    for kind, member in (("lock", "files"), ("sbom", "bomFormat")):
        response = server.client.get(f"/freehold/v1/papers/{kind}", params={"model": "tiny"})
        assert member in response.json()
        assert re.fullmatch(
            r'attachment; filename="[A-Za-z0-9.-]+\.json"',
            response.headers["content-disposition"],
        )
    missing = server.client.get("/freehold/v1/papers", params={"model": "no-such"})
    assert missing.status_code == 404
