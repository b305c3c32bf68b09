"""Which models are in memory, and who waits for which: the decision. `manager` acts on it.

             the first in the queue,           all that
             and there is room                 llama.cpp reads
    WAITING ───────────────────────▶ LOADING ───────────────▶ READY ◀──┐
       ▲  │ nobody waits any more      │  │ failed               │ │    │ lease, return
       │  └──▶ (forgotten)             │  └──▶ (forgotten, its   │ └────┘
       │                               │        waiters refused) │
       │          nobody waits for it, and room is needed, or    │ nobody uses it, and its time
       │          it was told to leave │                         │ is over, it was told to leave,
       │                               ▼                         ▼ or its room is needed
       └───── somebody asked ──── LEAVING ◀──────────────────────┘
              meanwhile            │ gone, and nobody asked ──▶ (forgotten)

Events go in, effects come out; nothing here waits, reads a clock or touches a process.

**Room.** LOADING, READY and LEAVING count with what they need; a load begins only if the sum stays
within the budget. A model that could not fit if all that may leave had left is refused at once.
Pinned models never leave for another, nor for their age; no model leaves while it is in use.

**Turns.** Models that have no room queue in the order of their first request, and none overtakes.
For the first of them those leave who must, all at the same time: idle ones before others, the
least recently used first. While it waits, a model that is in its way has one *turn*: so many
`Turn.requests` or `Turn.seconds`, whichever ends first, counted from when it was ready or from
when the queue began. Then it is leased to nobody, existing leases run out, and it leaves; who still
waits for it queues again. Before its turn is over it leaves only once it has been idle for
`Turn.idle` seconds, so that a client that asks without pause does not lose its model to every
other request. So whoever waits comes to his turn after as many turns as there are models before
his, and two models that fight are never exchanged more often than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from freehold.domain.errors import DeadlineExceeded, FreeholdError, LoadFailed, Unavailable
from freehold.runtime.residency_words import (
    Asked,
    CancelLoad,
    Closed,
    Dismissed,
    Effect,
    Event,
    Failed,
    Gone,
    Grant,
    Left,
    Load,
    Loaded,
    Measured,
    Phase,
    Pinned,
    Refuse,
    Resident,
    Ticked,
    Turn,
    Unload,
    Why,
)


@dataclass(frozen=True)
class _Waiter:
    deadline: float | None
    keep_alive: float | None


@dataclass
class _Model:
    key: str
    name: str
    needed: int
    size: int  # what it counts with
    since: float  # in this phase
    keep_alive: float
    phase: Phase = Phase.WAITING
    waiters: dict[int, _Waiter] = field(default_factory=dict)  # by ticket, as they came
    users: set[int] = field(default_factory=set)
    last_used: float = -math.inf
    turn_began: float = -math.inf
    granted: int = 0  # in this turn

    @property
    def in_memory(self) -> bool:
        return self.phase is not Phase.WAITING

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.since = phase, now

    def begin_turn(self, now: float) -> None:
        self.turn_began, self.granted = now, 0


class Residency:
    """All models of one process. ``keep_alive`` is that of models nobody gave another."""

    def __init__(self, *, keep_alive: float, turn: Turn | None = None) -> None:
        self._keep_alive = keep_alive
        self._turn = turn or Turn()
        self._pinned: set[str] = set()
        self._models: dict[str, _Model] = {}
        self._queue: list[_Model] = []
        self._tickets: dict[int, _Model] = {}
        self._effects: list[Effect] = []
        self._closed = False
        self._budget = 0

    # What is to be seen

    def __contains__(self, key: str) -> bool:
        """Whether it is in memory or in the queue."""
        return key in self._models

    @property
    def contended(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._queue)

    @property
    def taken(self) -> int:
        """Bytes of all that is in memory, comes or goes."""
        return sum(model.size for model in self._models.values() if model.in_memory)

    def resident(self, key: str, now: float) -> Resident | None:
        model = self._models.get(key)
        return None if model is None else self._seen(model, now)

    def residents(self, now: float) -> tuple[Resident, ...]:
        """In the order in which they were first asked for."""
        return tuple(self._seen(model, now) for model in self._models.values())

    def _seen(self, model: _Model, now: float) -> Resident:
        expires = self._expires(model) if not model.users else now + model.keep_alive
        stays = model.key in self._pinned or model.phase is not Phase.READY
        return Resident(
            key=model.key,
            name=model.name,
            phase=model.phase,
            needed=model.needed,
            size=model.size,
            since=model.since,
            users=len(model.users),
            waiting=len(model.waiters),
            pinned=model.key in self._pinned,
            expires=None if stays or math.isinf(expires) else expires,
        )

    def _expires(self, model: _Model) -> float:
        return max(model.last_used, model.since) + model.keep_alive

    def wake(self, now: float) -> float | None:
        """When `Ticked` is due, if nothing else happens before."""
        times = [
            waiter.deadline
            for model in self._models.values()
            for waiter in model.waiters.values()
            if waiter.deadline is not None
        ]
        times += [self._expires(model) for model in self._leaving_by_age()]
        for model in self._in_way():
            times.append(model.turn_began + self._turn.seconds)
            times.append(model.last_used + self._turn.idle)
        return min((time for time in times if now < time < math.inf), default=None)

    # What happens

    def handle(self, event: Event, now: float, budget: int) -> tuple[Effect, ...]:
        """What follows from ``event``, in this order. ``budget``: bytes for all models together."""
        self._effects, self._budget = [], budget
        self._note(event, now)
        self._refuse_late(now)
        if self._closed:
            self._clear(now)
        else:
            self._let_age(now)
            self._serve_queue(now)
            self._lease(now)
        return tuple(self._effects)

    def _note(self, event: Event, now: float) -> None:
        match event:
            case Asked():
                self._ask(event, now)
            case Left(ticket):
                self._leave(ticket, now)
            case Pinned(key, pinned):
                (self._pinned.add if pinned else self._pinned.discard)(key)
            case Dismissed(key):
                self._pinned.discard(key)
                if key in self._models:
                    self._models[key].keep_alive = 0
            case Closed():
                self._closed = True
            case Ticked():
                pass
            case _:
                self._follow(event, self._models[event.key], now)

    def _follow(self, event: Loaded | Failed | Gone | Measured, model: _Model, now: float) -> None:
        """What became of an effect."""
        match event:
            case Loaded():
                model.enter(Phase.READY, now)
                model.last_used = now
                model.begin_turn(now)
            case Measured(_, size):
                model.size = max(model.size, size)
            case Failed(_, error) if model.phase is Phase.LOADING:
                self._refuse(model, error)
                self._forget(model)
            case Failed() | Gone():
                self._end(model, now)

    def _ask(self, asked: Asked, now: float) -> None:
        model = self._models.get(asked.key)
        if model is None:
            model = _Model(asked.key, asked.name, asked.needed, asked.needed, now, self._keep_alive)
            self._models[asked.key] = model
            self._enqueue(model, now)
        model.waiters[asked.ticket] = _Waiter(asked.deadline, asked.keep_alive)
        self._tickets[asked.ticket] = model

    def _enqueue(self, model: _Model, now: float) -> None:
        if not self._queue:
            for other in self._models.values():
                other.begin_turn(now)
        model.enter(Phase.WAITING, now)
        self._queue.append(model)

    def _leave(self, ticket: int, now: float) -> None:
        model = self._tickets.pop(ticket, None)
        if model is None:  # it was refused
            return
        if ticket in model.users:
            model.users.discard(ticket)
            model.last_used = now
        model.waiters.pop(ticket, None)
        if model.phase is Phase.WAITING and not model.waiters:
            self._forget(model)

    def _end(self, model: _Model, now: float) -> None:
        """What it took is free again. Whoever asked for it meanwhile waits for it to come back."""
        self._forget(model)
        if model.waiters:
            model.keep_alive = self._keep_alive
            self._models[model.key] = model
            self._enqueue(model, now)

    def _forget(self, model: _Model) -> None:
        if model in self._queue:
            self._queue.remove(model)
        del self._models[model.key]

    def _refuse(self, model: _Model, error: FreeholdError) -> None:
        for ticket in list(model.waiters):
            self._refuse_one(model, ticket, error)

    def _refuse_one(self, model: _Model, ticket: int, error: FreeholdError) -> None:
        del model.waiters[ticket], self._tickets[ticket]
        self._effects.append(Refuse(ticket, error))

    # What follows

    def _refuse_late(self, now: float) -> None:
        for model in list(self._models.values()):
            late = [
                ticket
                for ticket, waiter in model.waiters.items()
                if waiter.deadline is not None and waiter.deadline <= now
            ]
            for ticket in late:
                self._refuse_one(model, ticket, self._too_late(model))
            if model.phase is Phase.WAITING and not model.waiters:
                self._forget(model)

    def _too_late(self, model: _Model) -> DeadlineExceeded:
        names = None
        if model.phase is Phase.LOADING:
            reason = f"{model.name} was still being loaded"
        elif model.phase is Phase.WAITING:
            before = [other for other in self._models.values() if other is not model]
            names = tuple(other.name for other in before if other.in_memory) or None
            reason = f"{model.name} had no room beside {', '.join(names or ('other models',))}"
        else:
            reason = f"it was another model's turn and {model.name} was leaving"
        return DeadlineExceeded(
            f"The answer did not begin before the request's deadline: {reason}.",
            hint="Repeat the request later.",
            values={"model": model.name, "beside": names},
        )

    def _clear(self, now: float) -> None:
        error = Unavailable("The server is stopping.", hint="Ask again when it is back.")
        for model in list(self._models.values()):
            self._refuse(model, error)
            if model.phase is Phase.WAITING:
                self._forget(model)
            elif model.phase is not Phase.LEAVING:
                self._send_away(model, Why.CLOSING, now)

    def _send_away(self, model: _Model, why: Why, now: float) -> None:
        loading = model.phase is Phase.LOADING
        self._effects.append(CancelLoad(model.key) if loading else Unload(model.key, why))
        model.enter(Phase.LEAVING, now)

    def _leaving_by_age(self) -> list[_Model]:
        return [
            model
            for model in self._models.values()
            if model.phase is Phase.READY
            and not (model.users or model.waiters)
            and model.key not in self._pinned
        ]

    def _let_age(self, now: float) -> None:
        for model in self._leaving_by_age():
            if self._expires(model) <= now:
                self._send_away(model, Why.TIME, now)
        for model in self._models.values():
            if self._unwanted(model) and model.keep_alive <= 0 and model.key not in self._pinned:
                self._send_away(model, Why.TIME, now)

    def _serve_queue(self, now: float) -> None:
        for model in tuple(self._queue):
            if (error := self._impossible(model)) is not None:
                self._refuse(model, error)
                self._forget(model)
        while self._queue:
            first = self._queue[0]
            if first.size <= self._budget - self.taken:
                self._queue.pop(0)
                first.enter(Phase.LOADING, now)
                self._effects.append(Load(first.key))
            else:
                in_way = self._in_way()
                if all(self._may_go(model, now) for model in in_way):
                    for model in in_way:
                        self._send_away(model, Why.ROOM, now)
                return

    def _impossible(self, waiting: _Model) -> LoadFailed | None:
        """Why it could not fit whoever left; None: it could."""
        pinned = [
            model
            for model in self._models.values()
            if model.key in self._pinned and model.phase in (Phase.LOADING, Phase.READY)
        ]
        room = max(self._budget - sum(model.size for model in pinned), 0)
        if waiting.size <= room:
            return None
        message = (
            f"{waiting.name} needs about {waiting.size / 1e9:.2f} GB of memory, and "
            f"{room / 1e9:.2f} GB are available to it"
        )
        if pinned:
            message += f" beside what is pinned ({', '.join(model.name for model in pinned)})"
        return LoadFailed(
            f"{message}.",
            hint="Choose a smaller model or quantisation or a shorter --context, close other "
            "programs, or raise memory_budget if the memory is there.",
            values={
                "model": waiting.name,
                "needed_bytes": waiting.size,
                "free_bytes": room,
                "pinned": tuple(model.name for model in pinned) or None,
            },
        )

    def _in_way(self) -> list[_Model]:
        """Who has to leave for the first in the queue, besides those who do already."""
        if not self._queue:
            return []
        leaving = sum(m.size for m in self._models.values() if m.phase is Phase.LEAVING)
        missing = self._queue[0].size + self.taken - leaving - self._budget
        chosen: list[_Model] = []
        found = 0
        for model in sorted(self._models.values(), key=self._ease):
            if found >= missing:
                break
            if model.phase in (Phase.LOADING, Phase.READY) and model.key not in self._pinned:
                chosen.append(model)
                found += model.size
        for model in tuple(chosen):  # a small one may stay where a large one must leave anyway
            if found - model.size >= missing:
                chosen.remove(model)
                found -= model.size
        return chosen

    def _ease(self, model: _Model) -> tuple[int, float, str]:
        """Who leaves before whom."""
        if self._unwanted(model):
            return 0, model.since, model.key
        if model.phase is Phase.READY and not (model.users or model.waiters):
            return 1, model.last_used, model.key
        return (2 if model.phase is Phase.READY else 3), model.since, model.key

    def _unwanted(self, model: _Model) -> bool:
        """A load that nobody waits for any more: it goes on as long as its room is not needed."""
        return model.phase is Phase.LOADING and not model.waiters

    def _turn_is_over(self, model: _Model, now: float) -> bool:
        seconds = now >= model.turn_began + self._turn.seconds
        return seconds or model.granted >= self._turn.requests

    def _may_go(self, model: _Model, now: float) -> bool:
        if model.phase is Phase.LOADING:
            return self._unwanted(model)
        idle = not model.waiters and now >= model.last_used + self._turn.idle
        return not model.users and (idle or self._turn_is_over(model, now))

    def _lease(self, now: float) -> None:
        in_way = self._in_way()
        for model in self._models.values():
            if model.phase is not Phase.READY:
                continue
            for ticket, waiter in list(model.waiters.items()):
                if model in in_way and self._turn_is_over(model, now):
                    break
                del model.waiters[ticket]
                model.users.add(ticket)
                model.granted += 1
                model.last_used = now
                if waiter.keep_alive is not None:
                    model.keep_alive = waiter.keep_alive
                self._effects.append(Grant(ticket))
