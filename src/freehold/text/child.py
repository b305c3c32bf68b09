"""The text child: the one process in which strangers' templates run.

Run as ``python -P -m freehold.text.child FD``. It answers one request at a
time. Each rendering is bounded in time (a soft limit that becomes an error, and a
hard one of CPU time by which the kernel ends the process even inside native code) and
in address space.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import resource
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from freehold.domain.errors import FreeholdError, TemplateFailed
from freehold.process.frames import Channel
from freehold.process.inside import settle_in
from freehold.text import template
from freehold.text.messages import (
    Failed,
    FromGateway,
    Ready,
    Render,
    Rendered,
    Tokenize,
    VocabularySource,
)
from freehold.text.prompt import Markers, protect, reveal, stretches
from freehold.text.vocabulary import (
    Vocabulary,
    close_vocabulary,
    open_vocabulary,
    start_native,
)

log = logging.getLogger(__name__)

RENDER_SECONDS = 1.0
RENDER_CPU_SECONDS_HARD = 2.0
RENDER_BYTES = 512 * 1024 * 1024
VOCABULARIES_KEPT = 8
MESSAGE_CHARACTERS = 2000


class _OutOfTime(BaseException):
    """Raised by the timer; not an `Exception`, so that no template construct swallows it."""


class Vocabularies:
    """The least recently used vocabularies are closed when there are too many."""

    def __init__(self) -> None:
        self._open: collections.OrderedDict[str, tuple[Vocabulary, Markers]] = (
            collections.OrderedDict()
        )

    def get(self, source: VocabularySource) -> tuple[Vocabulary, Markers]:
        if source.digest not in self._open:
            while len(self._open) >= VOCABULARIES_KEPT:
                _, (oldest, _) = self._open.popitem(last=False)
                close_vocabulary(oldest)
            vocabulary = open_vocabulary([Path(path) for path in source.paths])
            self._open[source.digest] = vocabulary, vocabulary.markers(source.template)
        self._open.move_to_end(source.digest)
        return self._open[source.digest]


def render(request: Render, vocabulary: Vocabulary, markers: Markers) -> Rendered:
    """Messages → protected messages → prompt → token ids."""
    if not request.source.template:
        raise TemplateFailed(
            "This model has no chat template: it continues text rather than answers.",
            hint="Use an instruction-tuned model for conversations.",
        )
    protected = protect(request.messages, markers, secrets.token_hex(8))
    with bounded():
        rendered = template.render(
            request.source.template,
            [
                {"role": message.role.value, "content": message.content}
                for message in protected.messages
            ],
            special_tokens=vocabulary.special_tokens(),
        )
    if not rendered:
        raise TemplateFailed("The model's chat template wrote nothing.")
    tokens: list[int] = []
    for stretch in stretches(rendered, protected, markers):
        tokens += vocabulary.tokenize(stretch.text, special=not stretch.literal)
    return Rendered(prompt=reveal(rendered, protected), tokens=vocabulary.with_beginning(tokens))


def tokenize(request: Tokenize, vocabulary: Vocabulary) -> Rendered:
    tokens = vocabulary.tokenize(request.text, special=False)
    return Rendered(prompt=request.text, tokens=vocabulary.with_beginning(tokens))


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Limits of time and memory around the running of a template."""
    previous = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + RENDER_BYTES
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    try:
        if limit > RENDER_BYTES:
            resource.setrlimit(resource.RLIMIT_AS, (limit, previous[1]))
        signal.setitimer(signal.ITIMER_PROF, RENDER_CPU_SECONDS_HARD)
        signal.setitimer(signal.ITIMER_REAL, RENDER_SECONDS)
        yield
    except _OutOfTime:
        raise TemplateFailed(
            f"The model's chat template ran for more than {RENDER_SECONDS:g} s."
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, previous)


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise _OutOfTime


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not say (then no limit is set)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    return pages * resource.getpagesize()


def answer(request: FromGateway, vocabularies: Vocabularies) -> Rendered | Failed:
    try:
        vocabulary, markers = vocabularies.get(request.source)
        if isinstance(request, Render):
            return render(request, vocabulary, markers)
        return tokenize(request, vocabulary)
    except FreeholdError as error:
        # A template may have a say in the message: not a long one, nor half a character.
        message = error.message[:MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
        return Failed(code=error.code, message=message, hint=error.hint)
    except MemoryError:
        return Failed(
            code=TemplateFailed.code,
            message="The model's chat template used too much memory.",
            hint=None,
        )


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    channel: Channel[FromGateway] = Channel(settle_in(sys.argv[1]), FromGateway)
    start_native()
    channel.send(Ready())
    vocabularies = Vocabularies()
    while (request := channel.receive()) is not None:
        channel.send(answer(request, vocabularies))


if __name__ == "__main__":
    main()
