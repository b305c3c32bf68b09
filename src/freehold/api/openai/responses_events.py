"""A response while it is made: the parts of an answer as OpenAI's events and output items. Pure.

response.created, response.in_progress
for each item, one after another:
    response.output_item.added
    response.content_part.added        not for calls
    ….delta*, ….done                   of output_text, reasoning_text, function_call_arguments
    response.content_part.done         not for calls
    response.output_item.done
response.completed, response.incomplete or response.failed
"""

from __future__ import annotations

import uuid
from typing import Literal, Protocol

from pydantic import BaseModel

from freehold.api.openai import convert
from freehold.api.openai.responses_schema import (
    CallOutput,
    Failure,
    IncompleteDetails,
    InputTokensDetails,
    MessageOutput,
    Output,
    OutputText,
    OutputTokensDetails,
    ReasoningOutput,
    ReasoningText,
    ResponseObject,
    ResponseUsage,
    Status,
)
from freehold.api.openai.schema import TokenLogprob
from freehold.api.problem import Problem
from freehold.domain import answers


class Event(BaseModel):
    type: str
    sequence_number: int = 0


class ResponseEvent(Event):
    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: Output


class _InItem(Event):
    item_id: str
    output_index: int


class PartEvent(_InItem):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int = 0
    part: OutputText | ReasoningText


class TextDelta(_InItem):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    content_index: int = 0
    delta: str
    logprobs: list[TokenLogprob]


class TextDone(_InItem):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    content_index: int = 0
    text: str
    logprobs: list[TokenLogprob]


class ReasoningDelta(_InItem):
    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    content_index: int = 0
    delta: str


class ReasoningDone(_InItem):
    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    content_index: int = 0
    text: str


class ArgumentsDelta(_InItem):
    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    delta: str


class ArgumentsDone(_InItem):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    arguments: str


class _Open(Protocol):
    """The item that is being written."""

    def begin(self) -> list[Event]: ...

    def end(self, status: Status) -> list[Event]: ...

    def output(self, status: Status) -> Output: ...


class _Message:
    def __init__(self, index: int) -> None:
        self._id = f"msg_{uuid.uuid4().hex}"
        self._index = index
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> list[Event]:
        empty = MessageOutput(id=self._id, status="in_progress", content=[])
        return [_added(self._index, empty), self._part("response.content_part.added")]

    def more(self, text: str, found: list[TokenLogprob]) -> list[Event]:
        self._texts.append(text)
        self._logprobs += found
        delta = TextDelta(item_id=self._id, output_index=self._index, delta=text, logprobs=found)
        return [delta]

    def end(self, status: Status) -> list[Event]:
        done = TextDone(
            item_id=self._id,
            output_index=self._index,
            text="".join(self._texts),
            logprobs=self._logprobs,
        )
        part = self._part("response.content_part.done")
        return [done, part, _done(self._index, self.output(status))]

    def output(self, status: Status) -> MessageOutput:
        return MessageOutput(id=self._id, status=status, content=[self._content()])

    def _content(self) -> OutputText:
        return OutputText(text="".join(self._texts), logprobs=self._logprobs)

    def _part(
        self, kind: Literal["response.content_part.added", "response.content_part.done"]
    ) -> Event:
        return PartEvent(
            type=kind, item_id=self._id, output_index=self._index, part=self._content()
        )


class _Reasoning:
    def __init__(self, index: int) -> None:
        self._id = f"rs_{uuid.uuid4().hex}"
        self._index = index
        self._texts: list[str] = []

    def begin(self) -> list[Event]:
        empty = ReasoningOutput(id=self._id, status="in_progress", content=[])
        return [_added(self._index, empty), self._part("response.content_part.added")]

    def more(self, text: str) -> list[Event]:
        self._texts.append(text)
        return [ReasoningDelta(item_id=self._id, output_index=self._index, delta=text)]

    def end(self, status: Status) -> list[Event]:
        text = "".join(self._texts)
        done = ReasoningDone(item_id=self._id, output_index=self._index, text=text)
        part = self._part("response.content_part.done")
        return [done, part, _done(self._index, self.output(status))]

    def output(self, status: Status) -> ReasoningOutput:
        return ReasoningOutput(id=self._id, status=status, content=[self._content()])

    def _content(self) -> ReasoningText:
        return ReasoningText(text="".join(self._texts))

    def _part(
        self, kind: Literal["response.content_part.added", "response.content_part.done"]
    ) -> Event:
        return PartEvent(
            type=kind, item_id=self._id, output_index=self._index, part=self._content()
        )


class _Call:
    def __init__(self, index: int, call_id: str, name: str) -> None:
        self._id = f"fc_{uuid.uuid4().hex}"
        self._index = index
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def begin(self) -> list[Event]:
        return [_added(self._index, self.output("in_progress"))]

    def more(self, arguments: str) -> list[Event]:
        self._arguments.append(arguments)
        return [ArgumentsDelta(item_id=self._id, output_index=self._index, delta=arguments)]

    def end(self, status: Status) -> list[Event]:
        arguments = "".join(self._arguments)
        done = ArgumentsDone(item_id=self._id, output_index=self._index, arguments=arguments)
        return [done, _done(self._index, self.output(status))]

    def output(self, status: Status) -> CallOutput:
        return CallOutput(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._arguments),
        )


def _added(index: int, item: Output) -> Event:
    return ItemEvent(type="response.output_item.added", output_index=index, item=item)


def _done(index: int, item: Output) -> Event:
    return ItemEvent(type="response.output_item.done", output_index=index, item=item)


class Making:
    """One response from its first part to its last. ``blank`` says what was asked for.

    Whole or streamed, a response is what the same parts make of it here.
    """

    def __init__(self, blank: ResponseObject) -> None:
        self._response = blank
        self._finished: list[Output] = []
        self._open: _Open | None = None
        self._told = 0
        self._unplaced: list[TokenLogprob] = []

    @property
    def response(self) -> ResponseObject:
        """As it stands."""
        return self._response

    def of(self, part: answers.Part) -> list[Event]:
        """What one part is to the client."""
        return self._numbered(self._events(part))

    def failed(self, problem: Problem, kind: str) -> list[Event]:
        """It ends here; what there is of it stays. ``kind`` is the error's type in OpenAI's words.

        The codes of this object are few; the message says it all.
        """
        before = [] if self._told else self._begin()
        if self._open is not None:
            self._finished.append(self._open.output("incomplete"))
        failure = Failure(
            code="server_error" if problem.status >= 500 else "invalid_prompt",
            message=problem.message,
            param=problem.field,
            type=kind,
        )
        self._response = self._response.model_copy(
            update={"status": "failed", "error": failure, "output": self._finished}
        )
        failed = ResponseEvent(type="response.failed", response=self._response)
        return self._numbered([*before, failed])

    def _events(self, part: answers.Part) -> list[Event]:
        match part:
            case answers.Begun():
                return self._begin()
            case answers.ReasoningDelta(text):
                return self._reasoning(text)
            case answers.ContentDelta(text, found):
                return self._content(text, convert.token_logprobs(found))
            case answers.ToolCallBegun(_, identity, name):
                return self._next(_Call(self._following, identity, name))
            case answers.ToolCallDelta(_, arguments):
                assert isinstance(self._open, _Call)
                return self._open.more(arguments)
            case answers.Ended():
                return self._end(part)

    def _begin(self) -> list[Event]:
        return [
            ResponseEvent(type="response.created", response=self._response),
            ResponseEvent(type="response.in_progress", response=self._response),
        ]

    @property
    def _following(self) -> int:
        """The index of the item that comes next."""
        return len(self._finished) + (self._open is not None)

    def _reasoning(self, text: str) -> list[Event]:
        events: list[Event] = []
        if not isinstance(self._open, _Reasoning):
            events += self._next(_Reasoning(self._following))
        assert isinstance(self._open, _Reasoning)
        return events + self._open.more(text)

    def _content(self, text: str, found: list[TokenLogprob]) -> list[Event]:
        self._unplaced += found
        if isinstance(self._open, _Message):
            events: list[Event] = []
        elif text:
            events = self._next(_Message(self._following))
        else:
            return []  # tokens without a text: they wait for one
        assert isinstance(self._open, _Message)
        placed, self._unplaced = self._unplaced, []
        return events + (self._open.more(text, placed) if text or placed else [])

    def _next(self, item: _Open) -> list[Event]:
        events = self._close("completed")
        self._open = item
        return events + item.begin()

    def _close(self, status: Status) -> list[Event]:
        if self._open is None:
            return []
        closing, self._open = self._open, None
        self._finished.append(closing.output(status))
        return closing.end(status)

    def _end(self, ended: answers.Ended) -> list[Event]:
        cut = ended.reason is answers.EndReason.LENGTH
        events: list[Event] = []
        if self._open is None and not self._finished:  # the model had nothing to say
            events += self._next(_Message(0))
        events += self._close("incomplete" if cut else "completed")
        self._response = self._response.model_copy(
            update={
                "status": "incomplete" if cut else "completed",
                "incomplete_details": (
                    IncompleteDetails(reason="max_output_tokens") if cut else None
                ),
                "output": self._finished,
                "usage": _usage(ended.usage),
                "timings": convert.timings(ended),
            }
        )
        return [
            *events,
            ResponseEvent(
                type="response.incomplete" if cut else "response.completed",
                response=self._response,
            ),
        ]

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event.sequence_number = self._told
            self._told += 1
        return events


def _usage(counted: answers.AnswerUsage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=counted.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=counted.cached_tokens,
            cache_write_tokens=counted.prompt_tokens - counted.cached_tokens,
        ),
        output_tokens=counted.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=counted.reasoning_tokens),
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
    )
