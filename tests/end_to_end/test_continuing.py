"""The real model goes on with its own answers, wherever they were cut: in Japanese and an emoji, in
the middle of words and of characters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_web_page import ROOT, ask, begun, watched
from tests.support.gateway import Gateway, gateway

pytestmark = [pytest.mark.weights, pytest.mark.native]

LONG = 18
ASKED = "Repeat exactly, three times: 昔々あるところに 🦊🐲 鸞という鳥がいました。"


def answer(server: Gateway, identity: str, question: str, tokens: int) -> dict[str, Any]:
    limited(server, identity, tokens)
    body = {"parent": question, "model": "coder"}
    made = server.client.post(f"{ROOT}/{identity}/answers", json=body).json()
    found: dict[str, Any] = watched(server, identity, made["id"])[-1]["message"]
    return found


def limited(server: Gateway, identity: str, tokens: int) -> None:
    wishes = {"temperature": 0, "max_tokens": tokens}
    server.client.patch(f"{ROOT}/{identity}", json={"wishes": wishes})


def test_wherever_it_was_cut_it_is_the_same_answer(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "coder.gguf"
    path.hardlink_to(weights)
    with gateway(tmp_path / "home", (path,), context=1024) as server:
        identity = begun(server, model="coder")
        question = ask(server, identity, None, ASKED)
        uncut = answer(server, identity, question, LONG)
        assert uncut["figures"]["finish_reason"] == "length"
        assert "🦊" in uncut["content"]
        in_the_middle = 0
        for first in range(1, LONG):
            cut = answer(server, identity, question, first)
            in_the_middle += "�" in cut["content"]
            limited(server, identity, LONG - first)
            address = f"{ROOT}/{identity}/messages/{cut['id']}"
            assert server.client.post(f"{address}/continue", json={}).status_code == 200
            joined = watched(server, identity, cut["id"])[-1]["message"]
            # Where half a character was written again, as many tokens are left out at the end.
            assert uncut["content"].startswith(joined["content"].rstrip("�")), first
            assert joined["figures"]["completion_tokens"] >= LONG - 3, first
        assert in_the_middle, "no cut was in the middle of a character"
