"""What a calibration measured on this computer, with this build: the constants of predictions.

Measured by a child of `engines.llamacpp` on models made up for it, never on the models it is used
to predict. Kept in the store's ``state`` folder.
"""

from __future__ import annotations

import msgspec

CALIBRATION_FORMAT = 1


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``bandwidth``: bytes per second that all cores read from memory. ``matrix_rate``: floating
    point operations per second of the fastest matrix product. Everything else is by ggml type.

    ``computer`` and ``build`` say what it holds for; ``measured_at`` is ISO 8601 in UTC.
    """

    computer: str
    build: str
    measured_at: str
    seconds: float
    bandwidth: float
    matrix_rate: float
    format: int = CALIBRATION_FORMAT
