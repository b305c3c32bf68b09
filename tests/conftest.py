"""What holds for every test: none is timed.

Where nothing of hypothesis is cached yet, its first text takes a second and a half to make; that
says nothing about the test that happens to ask for it.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
