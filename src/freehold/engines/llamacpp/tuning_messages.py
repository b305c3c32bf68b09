"""The wires between the gateway and the children that measure, compare and requantise.

gateway                                    measuring
   │  ◀───────────────────────── Ready ──── │
   │  ── Open ────────────────────────────▶ │   once
   │  ◀──────────────── Opened | Refused ── │
   │  ── Time ────────────────────────────▶ │   any number, one at a time
   │  ◀──────────────────── Timed | Refused │
   │  ── Compare ─────────────────────────▶ │   instead of Open
   │  ◀───────── Window* , one per window ─ │   or Refused

gateway                                    quantising
   │  ◀───────────────────────── Ready ──── │
   │  ── Quantise ────────────────────────▶ │   once; it writes the file it was started with
   │  ◀──────────────── Written | Refused ─ │
"""

from __future__ import annotations

from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.messages import Ready, Refused
from freehold.process.frames import Message


class Open(Message, frozen=True):
    """Load a model for timing."""

    config: EngineConfig


class Opened(Message, frozen=True):
    """``context`` is what each sequence really has."""

    context: int


class Time(Message, frozen=True):
    """A prompt of ``depth`` tokens is read, ``steps`` tokens are decoded behind it, then
    ``steps`` in an empty context, then ``steps`` with ``sequences`` at once.
    """

    depth: int
    sequences: int
    steps: int


class Timed(Message, frozen=True):
    """Tokens per second, of all sequences together; ``sequences`` behind a short prompt."""

    prefill: float
    deep: float
    empty: float
    many: float


class Compare(Message, frozen=True):
    """Read ``text`` with ``source`` and each of ``others``, in so many windows spread over it.

    A window is ``before`` tokens that are read only and ``scored`` tokens that are predicted.
    """

    source: EngineConfig
    others: tuple[EngineConfig, ...]
    text: str
    windows: int
    before: int
    scored: int


class Difference(Message, frozen=True):
    """Sums over the scored tokens of one window. ``divergence`` is KL(source ‖ other) and
    ``source_loss`` and ``other_loss`` are negative log-likelihoods, in nats; ``agreed`` counts the
    tokens at which both would have said the same.
    """

    tokens: int
    divergence: float
    agreed: int
    source_loss: float
    other_loss: float


class Window(Message, frozen=True):
    """One window, in the order of `Compare.others`. ``last``: there are no more."""

    differences: tuple[Difference, ...]
    last: bool


class Quantise(Message, frozen=True):
    """``file_type`` is llama.cpp's number."""

    source: str
    file_type: int
    threads: int


class Written(Message, frozen=True):
    """The file is complete."""


FromTuner = Open | Time | Compare
FromMeasuring = Ready | Opened | Timed | Window | Refused
FromQuantising = Ready | Written | Refused
