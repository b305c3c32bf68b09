"""The least that each route takes to make a model work, without the model's name."""

from __future__ import annotations

from typing import Any

HELLO: Any = [{"role": "user", "content": "Hello"}]
ANSWERING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 200},
    "/api/generate": {"prompt": "Hello"},
    "/api/chat": {"messages": HELLO},
}
EMBEDDING: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "Hello"},
    "/api/embed": {"input": "Hello"},
    "/api/embeddings": {"prompt": "Hello"},
}
