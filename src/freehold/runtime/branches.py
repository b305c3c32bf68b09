"""What the model is asked for a branch of a kept conversation. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from freehold.domain.chat import ChatRequest, Conversation, Message, ReasoningWish, Role
from freehold.domain.sampling import Sampling
from freehold.runtime.kept import (
    AttachedFile,
    ConversationNotFound,
    Heading,
    KeptMessage,
    Wishes,
)


def branch_to(messages: Sequence[KeptMessage], leaf: str) -> list[KeptMessage]:
    """From the first message down to ``leaf``. Raises `ConversationNotFound`."""
    known = {message.id: message for message in messages}
    branch: list[KeptMessage] = []
    at: str | None = leaf
    while at is not None:
        if at not in known:
            raise ConversationNotFound(at)
        branch.append(known[at])
        at = known[at].parent
    return branch[::-1]


def request(
    heading: Heading,
    branch: Sequence[KeptMessage],
    model: str,
    *,
    scope: str,
    deadline: float | None,
    said: tuple[int, ...] = (),
) -> ChatRequest:
    """What the model is asked for a branch that ends with a question. ``said``: the tokens of its
    answer so far.
    """
    system = (Message(Role.SYSTEM, heading.system),) if heading.system else ()
    wishes = heading.wishes
    return ChatRequest(
        model=model,
        conversation=Conversation(
            messages=(*system, *(_as_told(message) for message in branch)),
            reasoning=_reasoning(wishes),
        ),
        sampling=_sampling(wishes),
        max_tokens=wishes.max_tokens,
        cache_scope=scope,
        deadline=deadline,
        said=said,
    )


def _reasoning(wishes: Wishes) -> ReasoningWish:
    if wishes.reasoning_effort == "none":
        return ReasoningWish(enabled=False)
    return ReasoningWish(effort=wishes.reasoning_effort, budget=wishes.reasoning_budget)


def _sampling(wishes: Wishes) -> Sampling:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    said = {name: value for name in names if (value := getattr(wishes, name)) is not None}
    return Sampling(**said)


def _as_told(message: KeptMessage) -> Message:
    files = "".join(_fenced(file) for file in message.files)
    return Message(Role(message.role), files + message.content, reasoning=message.reasoning or None)


def _fenced(file: AttachedFile) -> str:
    """Its name, and its text between fences longer than any in it."""
    fence = "```"
    while fence in file.text:
        fence += "`"
    end = "" if file.text.endswith("\n") else "\n"
    return f"{file.name}\n{fence}\n{file.text}{end}{fence}\n\n"
