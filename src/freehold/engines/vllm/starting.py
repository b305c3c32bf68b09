"""How far vLLM has come with its start, from the lines of its log. Pure.

What stays in a log line from one version to the next is little; a line that is not known here
changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_SHARDS = re.compile(r"checkpoint shards:.*Completed \| (\d{1,6})/(\d{1,6})")
# In the order in which they come; each names what is done from there on.
_STAGES = (
    ("Resolved architecture", "starting its processes"),
    ("Initializing a V1 LLM engine", "starting its processes"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "preparing the computation"),
    ("torch.compile takes", "preparing the computation"),
    ("Compiling a graph", "compiling for this machine"),
    ("Dynamo bytecode transform time", "compiling for this machine"),
    ("Capturing CUDA graph", "recording the card's work"),
    ("KV cache size:", "warming up"),
    ("init engine (profile", "opening its socket"),
    ("Supported tasks:", "opening its socket"),
)
# The end of a traceback, and those that only tell that another process has had one.
_TROUBLE = re.compile(r"\b\w*(?:Error|Exception): .+")
_OF_ANOTHER = "initialization failed"
FIRST_STAGE = "loading Python and PyTorch"


@dataclass(frozen=True)
class Start:
    """``stage``: what is being done. ``progress``: how much of the weights has been read, from 0
    to 1; None while nobody knows. ``trouble``: the last error that it told of.
    """

    stage: str = FIRST_STAGE
    progress: float | None = None
    trouble: str | None = None

    def heard(self, line: str) -> Start:
        """After one more line of the log."""
        for done, of in _SHARDS.findall(line):
            if int(of) and int(done) <= int(of):
                return replace(self, stage="loading the weights", progress=int(done) / int(of))
        found = _TROUBLE.search(line)
        if found is not None and _OF_ANOTHER not in line:
            return replace(self, trouble=found[0].strip()[:300])
        for mark, stage in _STAGES:
            if mark in line:
                return replace(self, stage=stage)
        return self
