"""Silence for huggingface_hub, before it is imported.

The library decides most of these once, at import. Left alone it would, while
building a User-Agent, fetch ``{endpoint}/api/agent-harnesses`` once a day, write
the answer to its cache, look through the environment for coding agents and send
what it found. ``HF_HUB_DISABLE_TELEMETRY`` stops that chain at its first link.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        # Telemetry requests, the agent registry, and versions in the User-Agent.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        # A token is what the caller passed: never one found on disk, nor one an
        # OIDC exchange or an OAuth refresh would fetch over the network.
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        # No look-up of newer versions.
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        # No store shared between repositories, whose files are links to links.
        "HF_HUB_DISABLE_SHARED_BLOBS": "1",
        # hf_xet has a network stack of its own, outside the rules of ours.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # The library logs a server's X-HF-Warning headers word for word at WARNING.
        "HF_HUB_VERBOSITY": "error",
        # Set by many users of older versions; the library warns about it at import.
        "HF_HUB_ENABLE_HF_TRANSFER": "0",
    }
)


def quiet_environment() -> Mapping[str, str]:
    """Switch off every call home of huggingface_hub, here and in child processes.

    Writes ``os.environ``, over whatever stood there, and reads no setting from
    it. Call it before the first import of the library. Returns what was set.
    """
    os.environ.update(_SETTINGS)
    return _SETTINGS
