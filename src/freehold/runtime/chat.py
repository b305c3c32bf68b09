"""One request: its turn → lease → render → check → generate → read. The straight line itself."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from freehold.domain.answers import Part, WholeAnswer
from freehold.domain.chat import (
    ChatRequest,
    CompletionRequest,
    Conversation,
    GenerateRequest,
    MessagesRequest,
    ToolUse,
)
from freehold.domain.errors import InvalidRequest, PromptTooLong
from freehold.domain.sampling import Constraint, Sampling
from freehold.engines.base import begun_before, require_generating
from freehold.engines.upstream.asking import require_possible
from freehold.engines.upstream.engine import UpstreamEngine
from freehold.runtime.accounting import Account
from freehold.runtime.admission import Admission, Admitted
from freehold.runtime.answering import Answer, Answering, Plan, collect, merged
from freehold.runtime.manager import Lease, Manager
from freehold.runtime.observing import Meters
from freehold.runtime.upstreams import UpstreamAnswer
from freehold.text.client import Prompt, TextService
from freehold.text.expectation import Expectation, expectation, require_known
from freehold.text.messages import VocabularySource
from freehold.text.resuming import Resumed, resumed
from freehold.weights.library import LocalModel

# Text that is gone on with as it is.
_AS_IT_IS = Expectation(marks=None, inside=False, form=None, tools=(), constraint=None)


@dataclass(frozen=True)
class Generation:
    """A request that is ready to run: nothing about it can be refused any more.

    ``answers`` are independent of each other; each runs once. ``resumed``: what was said before of
    one that is gone on with, which is not told again. Closing their iterators early
    cancels. ``request_id`` is the first one's, as logs have it. ``name`` is the model's,
    ``context`` how many tokens it holds; None: it is an upstream's that has not said so.
    """

    request_id: str
    name: str
    context: int | None
    answers: tuple[Answering, ...]
    resumed: Resumed | None = field(default=None, kw_only=True)

    def parts(self) -> AsyncGenerator[tuple[int, Part], None]:
        """The parts of all answers as they come, each with its answer's number."""
        return merged(self.answers)

    async def whole(self) -> tuple[WholeAnswer, ...]:
        """All answers, put together."""
        return await collect(self.parts(), len(self.answers))


@dataclass(frozen=True)
class Rendered(Generation):
    """One of a model of this machine, whose prompt is known."""

    source: VocabularySource
    prompt: Prompt


class Chat:
    """Opens generations when it is their turn, counted in ``meters``. ``default_max_tokens`` None:
    as many as there is room for; it may change between requests.
    """

    def __init__(
        self,
        manager: Manager,
        text: TextService,
        admission: Admission,
        *,
        default_max_tokens: int | None,
        meters: Meters,
    ) -> None:
        self._manager = manager
        self._admission = admission
        self._text = text
        self.default_max_tokens = default_max_tokens
        self._meters = meters

    @contextlib.asynccontextmanager
    async def open(self, request: ChatRequest) -> AsyncIterator[Generation]:
        """Wait for its turn, lease the model and prepare the prompt; turn and lease end with the
        context. An upstream is neither leased nor is anything rendered for it.

        Raises what `Admission.turn`, `Manager.lease`, `TextService.render` and
        `TextService.check_constraint` raise, `InvalidRequest` for what the model cannot do,
        `PromptTooLong`, and `DeadlineExceeded` if the model is not ready in time.
        """
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as held:
            upstream = self._manager.upstreams.engine(self._manager.canonical(request.model))
            if upstream is not None:
                turn = self._turn_of(upstream, request)
                admitted = await held.enter_async_context(turn)
                yield self._asked(upstream, request, admitted, began)
                return
            admitted, lease = await held.enter_async_context(self._leased(request, request.answers))
            async with begun_before(request.deadline):
                source = vocabulary_source(lease.model)
                told = told_of(request)
                require_known(source.template, told, request.tool_choice)
                prompt = await self._text.render(source, told)
                expected = expectation(
                    source.template, prompt.text, told, request.tool_choice, request.constraint
                )
                await self._check(source, expected.constraint, request)
                before = await self._resumed(source, request.said, prompt, expected)
            plan = Plan(
                lease.model.name,
                expected,
                began,
                told.reasoning.budget,
                parallel_calls=request.tool_choice.parallel,
                said="" if before is None else before.raw,
                tally=self._meters.model(lease.model.name),
                reads=admitted.reads,
                took=admitted.took,
            )
            if before is not None:
                prompt = replace(prompt, tokens=(*prompt.tokens, *before.tokens))
            yield replace(self._generation(request, lease, prompt, plan), resumed=before)

    async def _resumed(
        self,
        source: VocabularySource,
        said: tuple[int, ...],
        prompt: Prompt,
        expected: Expectation,
    ) -> Resumed | None:
        if not said:
            return None
        pieces = await self._text.detokenize(source, said, prompt.shown)
        return resumed(said, pieces, expected.parser())

    @contextlib.asynccontextmanager
    async def _turn_of(
        self, upstream: UpstreamEngine, request: ChatRequest
    ) -> AsyncIterator[Admitted]:
        name, places = upstream.upstream.name, request.answers
        async with self._admission.turn(name, places=places, deadline=request.deadline) as admitted:
            admitted.finds(upstream.parallel)
            yield admitted

    def _asked(
        self, upstream: UpstreamEngine, request: ChatRequest, admitted: Admitted, began: float
    ) -> Generation:
        """The answers of an upstream: each is a request of its own there."""
        name = upstream.upstream.name
        wanted = request.max_tokens or self.default_max_tokens
        chat = replace(request, conversation=told_of(request), max_tokens=wanted)
        require_possible(upstream.upstream, chat)
        account = Account(name, self._meters.model(name), admitted.reads, admitted.took)
        answers = []
        for number in range(request.answers):
            sampling = _seeded(chat.sampling, number)
            asked = MessagesRequest(uuid.uuid4().hex, replace(chat, sampling=sampling))
            answers.append((asked.request_id, UpstreamAnswer(upstream, asked, account, began)))
        identity = answers[0][0]
        return Generation(identity, name, upstream.context, tuple(each for _, each in answers))

    async def _check(
        self, source: VocabularySource, constraint: Constraint | None, request: ChatRequest
    ) -> None:
        """Try the constraint. One that comes from the tools is the tools' fault."""
        if constraint is None:
            return
        try:
            await self._text.check_constraint(source, constraint)
        except InvalidRequest as error:
            if request.constraint is not None:
                raise
            raise InvalidRequest(error.message, field="tools", hint=error.hint) from error

    @contextlib.asynccontextmanager
    async def open_completion(self, request: CompletionRequest) -> AsyncIterator[Rendered]:
        """As `open`, for text without a template."""
        async with self.open_completions((request,)) as (generation,):
            yield generation

    @contextlib.asynccontextmanager
    async def open_completions(
        self, requests: Sequence[CompletionRequest]
    ) -> AsyncIterator[tuple[Rendered, ...]]:
        """The same for several texts of one request, which differ in nothing else: they have their
        turn together.
        """
        began = time.monotonic()
        first = requests[0]
        places = first.answers * len(requests)
        async with self._leased(first, places) as (admitted, lease):
            expected = replace(_AS_IT_IS, constraint=first.constraint)
            tally = self._meters.model(lease.model.name)
            plan = Plan(
                lease.model.name,
                expected,
                began,
                tally=tally,
                reads=admitted.reads,
                took=admitted.took,
            )
            async with begun_before(first.deadline):
                source = vocabulary_source(lease.model)
                if first.constraint is not None:
                    await self._text.check_constraint(source, first.constraint)
                context = lease.supervisor.capabilities.context
                generations = []
                for request in requests:
                    if not isinstance(request.prompt, str):  # before anybody spells it out
                        self._room(request, len(request.prompt), context)
                    prompt = await self._completion_prompt(source, request)
                    generations.append(self._generation(request, lease, prompt, plan))
            yield tuple(generations)

    @contextlib.asynccontextmanager
    async def _leased(
        self, request: ChatRequest | CompletionRequest, places: int
    ) -> AsyncIterator[tuple[Admitted, Lease]]:
        """Its turn, and a model that writes."""
        model, deadline = self._manager.canonical(request.model), request.deadline
        async with (
            self._admission.turn(model, places=places, deadline=deadline) as admitted,
            self._manager.lease(
                request.model, keep_alive=request.keep_alive, deadline=deadline
            ) as lease,
        ):
            capabilities = lease.supervisor.capabilities
            admitted.runs_on(capabilities)
            require_generating(capabilities)
            yield admitted, lease

    async def count(self, request: ChatRequest) -> int:
        """How many tokens its prompt has. The model is not loaded for it. Raises as `open`, and
        `InvalidRequest` for an upstream.
        """
        async with begun_before(request.deadline):
            source = vocabulary_source(await self._manager.local(request.model))
            told = told_of(request)
            require_known(source.template, told, request.tool_choice)
            return len((await self._text.render(source, told)).tokens)

    async def _completion_prompt(
        self, source: VocabularySource, request: CompletionRequest
    ) -> Prompt:
        if isinstance(request.prompt, str):
            return await self._text.tokenize(
                source, request.prompt, special=request.suffix is None, suffix=request.suffix
            )
        pieces = await self._text.detokenize(source, request.prompt)
        return Prompt(b"".join(pieces).decode("utf-8", "replace"), request.prompt)

    def _generation(
        self, request: ChatRequest | CompletionRequest, lease: Lease, prompt: Prompt, plan: Plan
    ) -> Rendered:
        supervisor = lease.supervisor
        context = supervisor.capabilities.context
        generate = GenerateRequest(
            request_id=uuid.uuid4().hex,
            prompt=prompt.tokens,
            max_tokens=self._room(request, len(prompt.tokens), context),
            sampling=request.sampling,
            cache_scope=request.cache_scope,
            deadline=request.deadline,
            constraint=plan.expected.constraint,
            top_logprobs=request.top_logprobs,
            prompt_logprobs=(
                request.prompt_logprobs if isinstance(request, CompletionRequest) else None
            ),
            shown=prompt.shown,
        )
        answers = tuple(
            Answer(supervisor.generate, _numbered(generate, number), plan, prompt.reasoning_end)
            for number in range(request.answers)
        )
        source = vocabulary_source(lease.model)
        identity, name = generate.request_id, lease.model.name
        return Rendered(identity, name, context, answers, source=source, prompt=prompt)

    def _room(
        self, request: ChatRequest | CompletionRequest, prompt_tokens: int, context: int
    ) -> int:
        room = context - prompt_tokens
        if room < 1:
            raise PromptTooLong.counted(prompt_tokens=prompt_tokens, context=context)
        if request.max_tokens is not None and request.max_tokens > room:
            raise PromptTooLong.counted(
                prompt_tokens=prompt_tokens, context=context, requested_tokens=request.max_tokens
            )
        wanted = request.max_tokens or self.default_max_tokens or room
        return min(wanted, room)


def told_of(request: ChatRequest) -> Conversation:
    """What the model is told of: no tools where none may be called.

    Where one is named it hears of all: the others may have been called before. No tokens of
    reasoning means none of it.
    """
    told = request.conversation
    if request.tool_choice.use is ToolUse.NONE:
        told = replace(told, tools=())
    if told.reasoning.budget == 0:
        told = replace(told, reasoning=replace(told.reasoning, enabled=False, budget=None))
    return told


def _numbered(request: GenerateRequest, number: int) -> GenerateRequest:
    """The request of answer ``number``: seeds differ, or all answers would be the same."""
    if number == 0:
        return request
    sampling = _seeded(request.sampling, number)
    return replace(request, request_id=uuid.uuid4().hex, sampling=sampling)


def _seeded(sampling: Sampling, number: int) -> Sampling:
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=sampling.seed + number)


def vocabulary_source(model: LocalModel) -> VocabularySource:
    return VocabularySource(
        digest=model.digest,
        paths=tuple(str(path) for path in model.paths),
        template=model.header.chat_template or "",
    )
