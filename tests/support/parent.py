"""A process with an engine and a text child, for tests of what it leaves behind.

Run as ``python -m tests.support.parent MODEL``. Prints the ids of its children as JSON
once they are at work, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys

import psutil

from freehold.domain.chat import Conversation, GenerateRequest, Message, Role
from freehold.domain.events import TextDelta
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.text.client import TextService
from freehold.text.messages import VocabularySource


async def main(model: str) -> None:
    text = TextService()
    source = VocabularySource("digest", (model,), "{{ messages[0].content }}")
    prompt = await text.render(source, Conversation((Message(Role.USER, "Hello"),)))
    engine = LlamaCppEngine(EngineConfig("tiny", (model,), 512, 1, threads=1))
    await engine.load()
    async for event in engine.generate(GenerateRequest("A", prompt.tokens, 400)):
        if isinstance(event, TextDelta):
            break
    children = psutil.Process().children(recursive=True)
    print(json.dumps([child.pid for child in children]), flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
