"""From Ollama's words to ours, and errors back. Pure. Answers are in `lines`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from freehold.api.bounds import given
from freehold.api.ollama import schema
from freehold.api.ollama.schema import Ask, ErrorResponse, Options
from freehold.api.problem import Problem
from freehold.domain import chat as domain
from freehold.domain.chat import CompletionRequest, Conversation, Message, ReasoningWish, Role
from freehold.domain.durations import seconds
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar, Sampling

# Our field → theirs, and what they say of a model that cannot do it.
_FIELDS: Mapping[str, str] = {
    "reasoning": "think",
    "reasoning_effort": "think",
    "response_format": "format",
    "top_k": "options.top_k",
    "min_p": "options.min_p",
    "typical_p": "options.typical_p",
    "repetition_penalty": "options.repeat_penalty",
    "penalty_window": "options.repeat_last_n",
}
_INABILITIES: Mapping[str, str] = {
    "reasoning": "does not support thinking",
    "reasoning_effort": "does not support levels of thinking",
    "tools": "does not support tools",
    "suffix": "does not support insert",
}


# Requests


def only_loads(body: Ask) -> bool:
    """Whether nothing is asked but to load the model, or with `unloads` to unload it."""
    if isinstance(body, schema.GenerateRequest):
        return not body.prompt
    return not (isinstance(body, schema.ChatRequest) and body.messages)


def keep_alive(body: Ask) -> float | None:
    """In seconds, infinity for ever; None: nothing is said of it."""
    return None if body.keep_alive is None else seconds(body.keep_alive)


def unloads(body: Ask) -> bool:
    """Whether ``keep_alive`` is no time at all."""
    return keep_alive(body) == 0


def chat_request(
    body: schema.ChatRequest, model: str, *, cache_scope: str, deadline: float
) -> domain.ChatRequest:
    """Raises `InvalidRequest` where fields contradict each other. ``model`` is our name for it."""
    return _conversation_request(
        body,
        model,
        Conversation(
            messages=_messages(body.messages or ()),
            tools=tuple(_tool(tool.function) for tool in body.tools or ()),
            reasoning=_reasoning(body),
        ),
        cache_scope=cache_scope,
        deadline=deadline,
    )


def generate_request(
    body: schema.GenerateRequest, model: str, *, cache_scope: str, deadline: float
) -> domain.ChatRequest | CompletionRequest:
    """A conversation of one turn; or, ``raw`` and around a hole, text that is gone on with."""
    _require_unused(body)
    if body.raw or body.suffix:
        return _completion_request(body, model, cache_scope=cache_scope, deadline=deadline)
    system = (Message(Role.SYSTEM, body.system),) if body.system else ()
    turns = (*system, Message(Role.USER, body.prompt or ""))
    return _conversation_request(
        body,
        model,
        Conversation(turns, reasoning=_reasoning(body)),
        cache_scope=cache_scope,
        deadline=deadline,
    )


def _conversation_request(
    body: Ask, model: str, conversation: Conversation, *, cache_scope: str, deadline: float
) -> domain.ChatRequest:
    options = body.options or Options()
    return domain.ChatRequest(
        model=model,
        conversation=conversation,
        sampling=_sampling(options),
        max_tokens=_max_tokens(options),
        cache_scope=cache_scope,
        deadline=deadline,
        keep_alive=keep_alive(body),
        constraint=_constraint(body),
        top_logprobs=_top_logprobs(body),
    )


def _completion_request(
    body: schema.GenerateRequest, model: str, *, cache_scope: str, deadline: float
) -> CompletionRequest:
    form = "raw" if body.raw else "suffix"
    for name, value in (("system", body.system or None), ("think", body.think)):
        if value is not None:
            raise InvalidRequest(
                f"{name} is the template's business, and with {form} there is no template.",
                field=name,
            )
    options = body.options or Options()
    return CompletionRequest(
        model=model,
        prompt=body.prompt or "",
        suffix=body.suffix or None,
        sampling=_sampling(options),
        max_tokens=_max_tokens(options),
        cache_scope=cache_scope,
        deadline=deadline,
        keep_alive=keep_alive(body),
        constraint=_constraint(body),
        top_logprobs=_top_logprobs(body),
    )


def _require_unused(body: schema.GenerateRequest) -> None:
    if body.template:
        raise InvalidRequest(
            "The model's own template is used; template cannot replace it.",
            field="template",
            hint="Render the prompt yourself and send it with raw: true.",
        )
    if body.context:
        raise InvalidRequest(
            "This server gives no context and takes none.",
            field="context",
            hint="Send the conversation to /api/chat: what was read before is not read again.",
        )
    _require_no_images(body.images, "images")


def _require_no_images(images: list[str] | None, field: str) -> None:
    if images:
        raise InvalidRequest("This server cannot look at images.", field=field)


def _messages(given: Iterable[schema.Turn]) -> tuple[Message, ...]:
    calls = _Calls()
    return tuple(_message(turn, number, calls) for number, turn in enumerate(given))


def _message(given: schema.Turn, number: int, calls: _Calls) -> Message:
    _require_no_images(given.images, f"messages.{number}.images")
    match given:
        case schema.SystemTurn():
            return Message(Role.SYSTEM, given.content)
        case schema.UserTurn():
            return Message(Role.USER, given.content)
        case schema.AssistantTurn():
            return Message(
                Role.ASSISTANT,
                given.content,
                reasoning=given.thinking or None,
                tool_calls=tuple(calls.made(call) for call in given.tool_calls or ()),
            )
        case schema.ToolTurn():
            call = calls.answered(given)
            return Message(
                Role.TOOL,
                given.content,
                tool_call_id=given.tool_call_id or (call.id if call else None),
                tool_name=given.tool_name or (call.name if call else None),
            )


class _Calls:
    """Which call a result answers: Ollama's clients need not say, templates may want to know."""

    def __init__(self) -> None:
        self._made = 0
        self._unanswered: list[domain.ToolCall] = []

    def made(self, given: schema.MadeCall) -> domain.ToolCall:
        call = domain.ToolCall(
            given.id or f"call_{self._made}",
            given.function.name,
            json.dumps(given.function.arguments, ensure_ascii=False),
        )
        self._made += 1
        self._unanswered.append(call)
        return call

    def answered(self, given: schema.ToolTurn) -> domain.ToolCall | None:
        """Take the call this is the result of; None if none fits."""
        for call in self._unanswered:
            if given.tool_call_id is not None:
                fits = call.id == given.tool_call_id
            else:
                fits = given.tool_name in (None, call.name)
            if fits:
                self._unanswered.remove(call)
                return call
        return None


def _tool(given: schema.FunctionDefinition) -> domain.Tool:
    parameters = given.parameters or {"type": "object", "properties": {}}
    return domain.Tool(given.name, given.description or "", json.dumps(parameters))


def _reasoning(body: Ask) -> ReasoningWish:
    if isinstance(body.think, str):
        return ReasoningWish(effort=body.think)
    return ReasoningWish(enabled=body.think)


def _sampling(options: Options) -> Sampling:
    """What the options say; what they leave out keeps our default."""
    default = Sampling()
    window = options.repeat_last_n
    return Sampling(
        temperature=given(options.temperature, default.temperature),
        top_p=given(options.top_p, default.top_p),
        top_k=given(options.top_k, default.top_k),
        min_p=given(options.min_p, default.min_p),
        typical_p=given(options.typical_p, default.typical_p),
        repetition_penalty=given(options.repeat_penalty, default.repetition_penalty),
        presence_penalty=given(options.presence_penalty, default.presence_penalty),
        frequency_penalty=given(options.frequency_penalty, default.frequency_penalty),
        penalty_window=default.penalty_window if window is None else _unless_negative(window),
        seed=None if options.seed is None else _unless_negative(options.seed),
        stop=tuple(options.stop or ()),
    )


def _unless_negative(value: int) -> int | None:
    return None if value < 0 else value


def _max_tokens(options: Options) -> int | None:
    if options.num_predict == 0:
        raise InvalidRequest(
            "options.num_predict must be at least 1, or -1 for as many as there is room for.",
            field="options.num_predict",
            hint="Leave the prompt empty to load a model without an answer.",
        )
    return None if options.num_predict is None else _unless_negative(options.num_predict)


def _constraint(body: Ask) -> Constraint | None:
    match body.format:
        case None | "":
            return None
        case "json":
            return Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}')
        case given:
            return Constraint(Grammar.JSON_SCHEMA, json.dumps(given))


def _top_logprobs(body: Ask) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest(
            "top_logprobs has a meaning only with logprobs: true.", field="top_logprobs"
        )
    return (body.top_logprobs or 0) if body.logprobs else None


def require_context(body: Ask, context: int | None) -> None:
    """Raise `InvalidRequest` if more is asked for than the ``context`` the model is loaded with;
    None: nobody knows it.
    """
    wanted = body.options.num_ctx if body.options is not None else None
    if wanted is not None and context is None:
        raise InvalidRequest(
            f"options.num_ctx is {wanted}, and nobody has said what {body.model} can hold.",
            field="options.num_ctx",
            hint="Leave num_ctx out, or configure the upstream's context.",
        )
    if wanted is not None and context is not None and wanted > context:
        raise InvalidRequest(
            f"options.num_ctx is {wanted}, and {body.model} is loaded with a context of {context}.",
            field="options.num_ctx",
            hint="Leave num_ctx out, or start the server with a larger --context.",
        )


# Errors


def in_own_words(error: InvalidRequest, model: str) -> InvalidRequest:
    """The same refusal as Ollama's clients know it. ``model`` is their name for it."""
    if error.field is None:
        return error
    inability = _INABILITIES.get(error.field)
    message = error.message if inability is None else f'"{model}" {inability}. {error.message}'
    field = _FIELDS.get(error.field, error.field)
    return InvalidRequest(message, field=field, hint=error.hint, values=error.values)


def error_body(problem: Problem) -> ErrorResponse:
    """A sentence or two; there is no other place to name the field in."""
    named = problem.field is None or _names(problem.message, problem.field)
    return ErrorResponse(
        error=problem.message if named else f"{problem.field}: {problem.message}",
        code=problem.code,
        values=problem.told,
    )


def _names(message: str, field: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(field)}(?!\w)", message) is not None
