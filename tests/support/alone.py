"""Run a command where the only network is this machine's own loopback.

python -m tests.support.alone COMMAND…    (inside ``unshare -rn``)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def command(*words: str) -> list[str]:
    """What to run instead of ``words``, in this repository's folder."""
    return ["unshare", "-rn", sys.executable, "-m", "tests.support.alone", *words]


def possible() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0
    )


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    assert [name for _, name in socket.if_nameindex() if name == "lo"] == ["lo"]
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - what the test asked for


if __name__ == "__main__":
    main()
