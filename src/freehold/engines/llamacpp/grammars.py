"""Constraints are compiled here, on a thread of their own: a step never waits for one."""

from __future__ import annotations

import logging
import queue
import threading

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import FreeholdError, InvalidRequest
from freehold.engines.llamacpp.inbox import Compiled, Inbox
from freehold.engines.llamacpp.messages import Failure
from freehold.text.constraint import ConstraintCompiler, Matcher
from freehold.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class Grammars:
    """The compile thread; it begins with the first constraint. Results go to ``inbox``."""

    def __init__(self, vocabulary: Vocabulary, inbox: Inbox) -> None:
        self._vocabulary = vocabulary
        self._inbox = inbox
        self._requests: queue.SimpleQueue[GenerateRequest] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def compile(self, request: GenerateRequest) -> None:
        """Ask for a `Compiled` of this request, which has a constraint."""
        self._requests.put(request)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compile", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        compiler: ConstraintCompiler | None = None
        while True:
            request = self._requests.get()
            outcome: Matcher | Failure = Failure("The constraint could not be compiled.")
            try:
                compiler = compiler or ConstraintCompiler(self._vocabulary)
                outcome = _outcome(compiler, request)
            except Exception:  # the border of this thread: whoever waits must be told
                log.exception("a constraint could not be compiled")
            self._inbox.put(Compiled(request.request_id, outcome))


def _outcome(compiler: ConstraintCompiler, request: GenerateRequest) -> Matcher | Failure:
    assert request.constraint is not None
    try:
        return compiler.compile(request.constraint)
    except InvalidRequest as error:
        return Failure(error.message, error.field)
    except FreeholdError as error:
        return Failure(error.message)
