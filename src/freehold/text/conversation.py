"""A conversation as chat templates want it: plain dictionaries, in Hugging Face's shape.

Every string in it that comes from somebody goes through ``shield`` first (see `prompt`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from freehold.domain.chat import Conversation, Message, Role, Tool, ToolCall
from freehold.text.tools.format import ToolFormat

# (text, whether it is the model's own answer)
Shield = Callable[[str, bool], str]


def template_variables(
    conversation: Conversation, shield: Shield, form: ToolFormat | None
) -> dict[str, Any]:
    """``messages``, ``tools`` and what is wished of reasoning."""
    wish = conversation.reasoning
    variables: dict[str, Any] = {
        "messages": [_message(message, shield, form) for message in conversation.messages],
        "tools": [_tool(tool, shield) for tool in conversation.tools] or None,
    }
    if wish.enabled is not None:
        # The names that templates use: Qwen3 and many others, then DeepSeek's.
        variables |= {"enable_thinking": wish.enabled, "thinking": wish.enabled}
    if wish.effort is not None:
        variables["reasoning_effort"] = wish.effort
    return variables


def _message(message: Message, shield: Shield, form: ToolFormat | None) -> dict[str, Any]:
    own = message.role is Role.ASSISTANT
    made: dict[str, Any] = {"role": message.role.value, "content": shield(message.content, own)}
    if message.reasoning:
        # The names that templates use: most, and gpt-oss.
        made["reasoning_content"] = made["thinking"] = shield(message.reasoning, own)
    if message.tool_calls:
        made["tool_calls"] = [_call(call, shield, form) for call in message.tool_calls]
    if message.tool_call_id is not None:
        made["tool_call_id"] = _identity(message.tool_call_id, shield, form)
    if message.tool_name is not None:
        made["name"] = shield(message.tool_name, False)
    return made


def _call(call: ToolCall, shield: Shield, form: ToolFormat | None) -> dict[str, Any]:
    arguments = _shielded(_parsed(call.arguments), shield)
    if form is not None and form.takes_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": _identity(call.id, shield, form),
        "type": "function",
        "function": {"name": shield(call.name, False), "arguments": arguments},
    }


def _identity(identity: str, shield: Shield, form: ToolFormat | None) -> str:
    return shield(identity if form is None else form.call_id(identity), False)


def _tool(tool: Tool, shield: Shield) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": shield(tool.name, False),
            "description": shield(tool.description, False),
            "parameters": _shielded(_parsed(tool.parameters), shield),
        },
    }


def _parsed(text: str) -> Any:
    """JSON if it is JSON; a client may send back anything as an old call's arguments."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shielded(value: Any, shield: Shield) -> Any:
    match value:
        case str():
            return shield(value, False)
        case dict():
            return {shield(key, False): _shielded(item, shield) for key, item in value.items()}
        case list():
            return [_shielded(item, shield) for item in value]
        case _:
            return value
