"""Clients that nobody wrote for this server, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import MODEL
from tests.support.command import environment, serving

pytestmark = [pytest.mark.weights, pytest.mark.native]

LANGCHAIN = """
import json, sys
from typing import Literal
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

class Verdict(BaseModel):
    colour: Literal["red", "green", "blue"]
    sure: bool

@tool
def add(first: int, second: int) -> int:
    "Add two whole numbers."
    return first + second

url, model = sys.argv[1:]
chat = ChatOpenAI(base_url=url + "/v1", api_key="none", model=model, temperature=0, max_tokens=60)
whole = chat.invoke("What is the capital of France? One word.").content
streamed = "".join(c.content for c in chat.stream("What is the capital of France? One word."))
verdict = chat.with_structured_output(Verdict, method="json_schema").invoke("The sky's colour?")
question = HumanMessage("What is 2 + 40?")
asked = chat.bind_tools([add], tool_choice="add").invoke([question])
call = asked.tool_calls[0]
result = ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"])
final = chat.bind_tools([add]).invoke([question, asked, result])
print(json.dumps({
    "whole": whole, "streamed": streamed, "verdict": verdict.model_dump(),
    "call": asked.tool_calls[0]["name"], "args": asked.tool_calls[0]["args"],
    "final": final.content, "usage": final.usage_metadata["total_tokens"],
}))
"""


def test_langchain(home: Path, weights: Path) -> None:
    """An answer, a stream, a Pydantic model and a loop with a tool."""
    with serving(home, "--context", "2048") as server:
        done = subprocess.run(
            [sys.executable, "-c", LANGCHAIN, server.url, MODEL],
            env=environment(home, {"LANGSMITH_TRACING": "false"}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "Paris" in found["whole"]
    assert found["streamed"] == found["whole"]
    assert found["verdict"]["colour"] in ("red", "green", "blue")
    assert found["call"] == "add"
    assert set(found["args"]) == {"first", "second"}
    assert found["usage"] > 0


TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: multiple_choice
test_split: train
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""
QUESTIONS = (
    ("The capital of France is", [" Paris", " Berlin", " Madrid"], 0),
    ("The capital of Japan is", [" Seoul", " Tokyo", " Beijing"], 1),
    ("Two and two make", [" five", " nine", " four"], 2),
    ("The opposite of hot is", [" cold", " tall", " green"], 0),
)


def test_lm_eval(home: Path, weights: Path, tmp_path: Path) -> None:
    """Log-likelihoods through `/v1/completions`: prompts of token ids, echoed."""
    data = tmp_path / "capitals.json"
    lines = [dict(zip(("question", "choices", "answer"), row, strict=True)) for row in QUESTIONS]
    data.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "capitals.yaml").write_text(TASK.format(data=data))
    with serving(home, "--context", "2048") as server:
        arguments = ",".join(
            [
                f"model={MODEL}",
                f"base_url={server.url}/v1/completions",
                "tokenizer_backend=remote",
                "tokenized_requests=True",
                "num_concurrent=2",
                "max_retries=1",
            ]
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "lm_eval", "--model", "local-completions"),
                *("--model_args", arguments, "--tasks", "capitals", "--batch_size", "1"),
                *("--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")),
            ],
            env=environment(home, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path)}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    accuracy = json.loads(results.read_text())["results"]["capitals"]["acc,none"]
    assert accuracy >= 0.75
