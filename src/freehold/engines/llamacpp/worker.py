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

from freehold.domain.errors import FreeholdError
from freehold.engines.llamacpp.binding import Context
from freehold.engines.llamacpp.inbox import Closed, Inbox
from freehold.engines.llamacpp.loop import Loop
from freehold.engines.llamacpp.messages import FromGateway, Load, Loaded, Ready, Refused
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
    """The sender thread."""
    try:
        while (step := outbox.take()) is not None:
            channel.send(step)
    except OSError:
        leave_now(0)


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    channel: Channel[FromGateway] = Channel(settle_in(sys.argv[1]), FromGateway)
    start_native()
    channel.send(Ready())
    first = channel.receive()
    if not isinstance(first, Load):
        return
    try:
        context = Context(first.config)
    except FreeholdError as error:
        channel.send(Refused(message=error.message, hint=error.hint))
        return
    channel.send(Loaded(context=context.context, description=context.description))
    inbox = Inbox()
    outbox = Outbox()
    threading.Thread(
        target=receive_into, args=(channel, inbox), name="receive", daemon=True
    ).start()
    threading.Thread(target=send_from, args=(channel, outbox), name="send", daemon=True).start()
    Loop(context, first.config, inbox, outbox).run()


if __name__ == "__main__":
    main()
