"""Threads that stay where they are put.

llama.cpp computes in OpenMP's threads. Where those may run is read from the environment when the
library is loaded (OpenMP 5.2, chapter 21.1), so it is said when a child is started; what the
operator says of it goes before (`child_environment`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from freehold.domain.engine import Affinity

_ON_A_CORE_EACH = MappingProxyType({"OMP_PLACES": "cores", "OMP_PROC_BIND": "close"})
_FREE: Mapping[str, str] = MappingProxyType({})


def variables(affinity: Affinity) -> Mapping[str, str]:
    """What a child that computes is started with."""
    return _ON_A_CORE_EACH if affinity is Affinity.CORES else _FREE
