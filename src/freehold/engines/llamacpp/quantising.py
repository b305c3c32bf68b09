"""The child that writes a model's weights again in another format.

Run as ``python -P -m freehold.engines.llamacpp.quantising FD TARGET``. ``TARGET`` is there
already and empty; it is the one file this process can write.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from freehold.domain.errors import FreeholdError
from freehold.engines.llamacpp.binding import quantise
from freehold.engines.llamacpp.messages import Ready, Refused
from freehold.engines.llamacpp.tuning_messages import Quantise, Written
from freehold.process.frames import Channel
from freehold.process.inside import settle_in
from freehold.text.vocabulary import start_native


def main(descriptor: str, target: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    channel: Channel[Quantise] = Channel(settle_in(descriptor, (Path(target),)), Quantise)
    start_native()
    channel.send(Ready())
    order = channel.receive()
    if order is None:
        return
    try:
        quantise(order.source, target, order.file_type, order.threads)
    except FreeholdError as error:
        channel.send(Refused(message=error.message, hint=error.hint))
        return
    channel.send(Written())


if __name__ == "__main__":
    main(*sys.argv[1:])
