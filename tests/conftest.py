"""What holds for every test: none is timed, and what they have in common asserts as they do.

Where nothing of hypothesis is cached yet, its first text takes a second and a half to make; that
says nothing about the test that happens to ask for it.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# Plain asserts are gone under PYTHONOPTIMIZE; rewritten ones hold (`tests/unit/test_security.py`).
pytest.register_assert_rewrite("tests.support")

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell that runs the tests in the background has them ignore it, and so what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
