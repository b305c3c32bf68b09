"""The worker: one process, one model.

Run as ``python -P -m freehold.engines.llamacpp.worker FD``. Three threads: the
main one owns the context (`loop`), one receives, one sends; a fourth compiles grammars once
there are any. The process ends when the
gateway closes the socket or dies; whatever native code does, it takes only itself down.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from freehold.domain.errors import FreeholdError, LoadFailed
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import Context, Model, NoCache
from freehold.engines.llamacpp.embedding import Embedder, EmbeddingLoop
from freehold.engines.llamacpp.inbox import Closed, Inbox
from freehold.engines.llamacpp.loop import Loop
from freehold.engines.llamacpp.messages import (
    FromGateway,
    Load,
    Loaded,
    Loading,
    Ready,
    Refused,
)
from freehold.engines.llamacpp.outbox import Outbox
from freehold.process.frames import Channel, WireError
from freehold.process.inside import leave_now, settle_in
from freehold.text.vocabulary import start_native

log = logging.getLogger(__name__)


def receive_into(channel: Channel[FromGateway], inbox: Inbox) -> None:
    """The receiver thread. Leaves the process at once when the gateway is gone."""
    try:
        while (message := channel.receive()) is not None:
            inbox.put(message)
    except (WireError, OSError):
        log.exception("the wire broke")
    inbox.put(Closed())
    # The loop may be inside a long decode; nothing is worth finishing for nobody.
    leave_now(0)


def send_from(channel: Channel[FromGateway], outbox: Outbox) -> None:
    """The sender thread. A worker that cannot speak is no use: it ends, and is replaced."""
    try:
        while (step := outbox.take()) is not None:
            channel.send(step)
    except OSError:
        leave_now(0)
    except WireError:
        log.exception("a message could not be sent")
        leave_now(1)


@dataclass(frozen=True)
class Opened:
    """A model and what it can do: ``context`` None, it only embeds; ``embedder`` None, it
    only generates.
    """

    model: Model
    context: Context | None
    embedder: Embedder | None

    @property
    def loaded(self) -> Loaded:
        return Loaded(
            context=self.model.context,
            description=self.model.description,
            generates=self.context is not None,
            embeds=self.embedder is not None,
        )

    def run(self, config: EngineConfig, inbox: Inbox, outbox: Outbox) -> None:
        if self.context is not None:
            Loop(self.context, config, inbox, outbox, self.embedder).run()
        elif self.embedder is not None:
            EmbeddingLoop(self.embedder, inbox, outbox).run()


def open_model(
    config: EngineConfig, outbox: Outbox, heard: Callable[[float], None] | None = None
) -> Opened:
    """``heard`` as in `Model`. Raises `LoadFailed`."""
    model = Model(config, heard)
    try:
        context = Context(config, model)
    except NoCache:
        context = None
    cached = context is not None
    pooling = model.pooling(cached=cached)
    if pooling is None:
        if not cached:
            raise LoadFailed(
                "This model does not generate, and its file does not say how it embeds.",
                hint="An embedding model's file names mean, cls or last pooling.",
            )
        return Opened(model, context, None)
    return Opened(model, context, Embedder(model, config, pooling, outbox, cached=cached))


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    channel: Channel[FromGateway] = Channel(settle_in(sys.argv[1]), FromGateway)
    start_native()
    channel.send(Ready())
    first = channel.receive()
    if not isinstance(first, Load):
        return
    inbox = Inbox()
    outbox = Outbox()
    try:
        opened = open_model(first.config, outbox, lambda done: channel.send(Loading(progress=done)))
    except FreeholdError as error:
        channel.send(Refused(message=error.message, hint=error.hint))
        return
    channel.send(opened.loaded)
    threading.Thread(
        target=receive_into, args=(channel, inbox), name="receive", daemon=True
    ).start()
    threading.Thread(target=send_from, args=(channel, outbox), name="send", daemon=True).start()
    opened.run(first.config, inbox, outbox)


if __name__ == "__main__":
    main()
