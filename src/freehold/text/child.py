"""The text child: the one process in which strangers' templates run.

Run as ``python -P -m freehold.text.child FD``. It answers one request at a
time. Each rendering is bounded in time (a soft limit that becomes an error, and a
hard one of CPU time by which the kernel ends the process even inside native code) and
in address space. So is each trial of a constraint, before a worker compiles it.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import functools
import logging
import resource
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from freehold.domain.errors import FreeholdError, InvalidRequest, TemplateFailed
from freehold.process.frames import Channel, MessageTooLarge
from freehold.process.inside import settle_in
from freehold.text import template
from freehold.text.constraint import FIELD, ConstraintCompiler
from freehold.text.conversation import template_variables
from freehold.text.messages import (
    CheckConstraint,
    ConstraintAccepted,
    Detokenize,
    Detokenized,
    Failed,
    FromGateway,
    ReadTable,
    Ready,
    Render,
    Rendered,
    TableRead,
    Tokenize,
    VocabularySource,
)
from freehold.text.prompt import Markers, Protection, reveal, stretches
from freehold.text.reasoning import closing_of, marks_of
from freehold.text.tools.families import format_of
from freehold.text.vocabulary import (
    Vocabulary,
    close_vocabulary,
    open_vocabulary,
    start_native,
)

log = logging.getLogger(__name__)


class Clock(enum.Enum):
    """Whose seconds: the timer, the signal it sends, and how its seconds are called."""

    WALL = (signal.ITIMER_REAL, signal.SIGALRM, "s")
    PROCESSOR = (signal.ITIMER_VIRTUAL, signal.SIGVTALRM, "s of processor time")


@dataclass(frozen=True)
class Limits:
    """What a stranger's text may take, and how it is refused.

    ``seconds`` are those of ``clock``; by that of the processor, a busy machine refuses nothing
    that an idle one accepts. ``stack`` None: what there is.
    """

    subject: str
    refuse: Callable[[str], FreeholdError]
    seconds: float
    cpu_seconds_hard: float
    bytes: int = 512 * 1024 * 1024
    stack: int | None = None
    clock: Clock = Clock.WALL


RENDER = Limits("The model's chat template", TemplateFailed, seconds=1.0, cpu_seconds_hard=2.0)
COMPILE = Limits(
    "The grammar",
    functools.partial(InvalidRequest, field=FIELD),
    seconds=2.0,
    cpu_seconds_hard=3.0,
    # Half of what a thread usually has: what is compiled here, a worker's thread can compile.
    stack=4 * 1024 * 1024,
    clock=Clock.PROCESSOR,
)
VOCABULARIES_KEPT = 8
MESSAGE_CHARACTERS = 2000


class _OutOfTime(BaseException):
    """Raised by the timer; not an `Exception`, so that no template construct swallows it."""


@dataclass(frozen=True)
class Opened:
    """A vocabulary and what is made from it."""

    vocabulary: Vocabulary
    markers: Markers
    compiler: ConstraintCompiler


class Vocabularies:
    """The least recently used vocabularies are closed when there are too many."""

    def __init__(self) -> None:
        self._open: collections.OrderedDict[str, Opened] = collections.OrderedDict()

    def get(self, source: VocabularySource) -> Opened:
        if source.digest not in self._open:
            while len(self._open) >= VOCABULARIES_KEPT:
                _, oldest = self._open.popitem(last=False)
                close_vocabulary(oldest.vocabulary)
            vocabulary = open_vocabulary([Path(path) for path in source.paths])
            self._open[source.digest] = Opened(
                vocabulary, vocabulary.markers(source.template), ConstraintCompiler(vocabulary)
            )
        self._open.move_to_end(source.digest)
        return self._open[source.digest]


def render(request: Render, opened: Opened) -> Rendered:
    """Conversation → protected conversation → prompt → token ids."""
    vocabulary, markers = opened.vocabulary, opened.markers
    if not request.source.template:
        raise TemplateFailed(
            "This model has no chat template: it continues text rather than answers.",
            hint="Use an instruction-tuned model for conversations.",
        )
    form, marks = format_of(request.source.template), marks_of(request.source.template)
    nonce = secrets.token_hex(8)
    protection = Protection(markers, nonce)
    variables = template_variables(request.conversation, protection.shield, form)
    cut = f"x{nonce}end" if request.conversation.continues else None
    if cut is not None:
        variables["messages"][-1]["content"] += cut
    with bounded(RENDER):
        rendered = template.render(
            request.source.template,
            variables,
            special_tokens=vocabulary.special_tokens(),
            generation_prompt=cut is None,
        )
    if cut is not None:
        rendered, found, _ = rendered.rpartition(cut)
        if not found:
            raise TemplateFailed("The model's chat template leaves out the turn to be continued.")
    if not rendered:
        raise TemplateFailed("The model's chat template wrote nothing.")
    without_reasoning = request.conversation.reasoning.enabled is False
    if cut is None and marks is not None and without_reasoning:
        rendered += closing_of(rendered, marks)
    tokens: list[int] = []
    placeholders = protection.placeholders
    for stretch in stretches(rendered, placeholders, markers):
        tokens += vocabulary.tokenize(stretch.text, special=not stretch.literal)
    shown = (*(form.shown if form else ()), *((marks.begin, marks.end) if marks else ()))
    return Rendered(
        prompt=reveal(rendered, placeholders),
        tokens=vocabulary.with_beginning(tokens),
        shown=tuple(token for each in shown if (token := vocabulary.token_of(each)) is not None),
        reasoning_end=vocabulary.token_of(marks.end) if marks else None,
    )


def tokenize(request: Tokenize, vocabulary: Vocabulary) -> Rendered:
    if request.suffix is not None:
        tokens = vocabulary.around_a_hole(request.text, request.suffix)
        if tokens is None:
            raise InvalidRequest("This model cannot fill in a middle.", field="suffix")
    else:
        tokens = vocabulary.tokenize(request.text, special=request.special)
    if request.beginning:
        tokens = vocabulary.with_beginning(tokens)
    if request.ending:
        tokens = vocabulary.with_ending(tokens)
    return Rendered(prompt=request.text, tokens=tokens)


def detokenize(request: Detokenize, vocabulary: Vocabulary) -> Detokenized:
    unknown = [token for token in request.tokens if not 0 <= token < vocabulary.size]
    if unknown:
        raise InvalidRequest(
            f"There is no token {unknown[0]}; this model has {vocabulary.size}.", field="tokens"
        )
    shown = None if request.shown is None else frozenset(request.shown)
    return Detokenized(
        pieces=[
            vocabulary.piece(token, special=shown is None or token in shown)
            for token in request.tokens
        ]
    )


def read_table(vocabulary: Vocabulary) -> TableRead:
    table = vocabulary.table()
    return TableRead(pieces=table.pieces, unseen=sorted(table.unseen), ends=table.ends)


def check(request: CheckConstraint, compiler: ConstraintCompiler) -> ConstraintAccepted:
    """Compile the constraint as a worker would, and try it."""
    compiler.prepare()
    with bounded(COMPILE):
        compiler.compile(request.constraint).rehearse()
    return ConstraintAccepted()


@contextlib.contextmanager
def bounded(limits: Limits) -> Iterator[None]:
    """Limits of time and memory around the running of a stranger's text."""
    space, stack = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_STACK)
    limit = _address_space() + limits.bytes
    timer, alarm, unit = limits.clock.value
    signal.signal(alarm, _out_of_time)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        if limit > limits.bytes:
            resource.setrlimit(resource.RLIMIT_AS, (limit, space[1]))
        if limits.stack is not None and sys.platform == "linux":  # elsewhere it is fixed by now
            resource.setrlimit(resource.RLIMIT_STACK, (limits.stack, stack[1]))
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds_hard)
        signal.setitimer(timer, limits.seconds)
        yield
    except _OutOfTime:
        message = f"{limits.subject} ran for more than {limits.seconds:g} {unit}."
        raise limits.refuse(message) from None
    except MemoryError:
        raise limits.refuse(f"{limits.subject} used too much memory.") from None
    finally:
        signal.setitimer(timer, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, space)
        resource.setrlimit(resource.RLIMIT_STACK, stack)


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise _OutOfTime


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not say (then no limit is set)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    return pages * resource.getpagesize()


Answered = Rendered | Detokenized | TableRead | ConstraintAccepted


def _done(request: FromGateway, opened: Opened) -> Answered:
    match request:
        case Render():
            return render(request, opened)
        case Tokenize():
            return tokenize(request, opened.vocabulary)
        case Detokenize():
            return detokenize(request, opened.vocabulary)
        case ReadTable():
            return read_table(opened.vocabulary)
        case CheckConstraint():
            return check(request, opened.compiler)


def answer(request: FromGateway, vocabularies: Vocabularies) -> Answered | Failed:
    try:
        return _done(request, vocabularies.get(request.source))
    except FreeholdError as error:
        # A template may have a say in the message: not a long one, nor half a character.
        message = error.message[:MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
        field = error.field if isinstance(error, InvalidRequest) else None
        return Failed(code=error.code, message=message, hint=error.hint, field=field)
    except RecursionError:
        return _refusal("Something in the request is nested too deeply.")
    except MemoryError:
        failed = TemplateFailed("The model's chat template used too much memory.")
        return Failed(code=failed.code, message=failed.message, hint=None)


def _refusal(message: str) -> Failed:
    return Failed(code=InvalidRequest.code, message=message, hint=None)


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    channel: Channel[FromGateway] = Channel(settle_in(sys.argv[1]), FromGateway)
    start_native()
    channel.send(Ready())
    vocabularies = Vocabularies()
    while (request := channel.receive()) is not None:
        try:
            channel.send(answer(request, vocabularies))
        except MessageTooLarge:
            channel.send(_refusal("The text is too large to be tokenised."))


if __name__ == "__main__":
    main()
