"""The process between us and vLLM: starts it without a network, ends all of it when we are gone.

vLLM is several processes, and not ours: they do not look whether the gateway lives. The keeper
does, by the wire: when that closes, however it came to that, everything vLLM started is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading

import psutil

from freehold.engines.vllm.launch import COMMAND, CPU_COMMAND
from freehold.engines.vllm.messages import Exited, FromGateway, Launch, Ready, Started
from freehold.process.confine import Layer
from freehold.process.frames import Channel
from freehold.process.inside import connect, die_with_parent, leave_no_core
from freehold.process.isolation import leave_network

log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
# Between asking vLLM's processes to end and ending them.
GRACE_SECONDS = 5.0


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    channel: Channel[FromGateway] = Channel(connect(sys.argv[1]), FromGateway)
    leave_no_core()
    if sys.platform == "linux":  # what vLLM leaves behind becomes ours, so that we find it
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    channel.send(Ready())
    launch = channel.receive()
    if not isinstance(launch, Launch):
        return
    if len(sys.argv) > 2:  # started by a doorkeeper, in its network
        python, detail = sys.argv[2:4]
        begun = launch.arguments[: len(COMMAND) + 1]
        if begun not in ((python, *COMMAND), (python, *CPU_COMMAND)):
            raise SystemExit("This is not the program that may be started here.")
        _keep(channel, launch, Layer(True, detail))
    else:
        _keep(channel, launch, leave_network())


def _keep(channel: Channel[FromGateway], launch: Launch, network: Layer) -> None:
    server = subprocess.Popen(
        launch.arguments,
        env=launch.environ,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # it logs on both
        stderr=sys.stderr,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - there is one thread yet
    )
    channel.send(
        Started(
            server.pid,
            isolated=network.detail if network.active else None,
            exposed=None if network.active else network.detail,
        )
    )
    threading.Thread(target=_report, args=(channel, server), daemon=True).start()
    while channel.receive() is not None:  # nothing more is said; the end is what we wait for
        pass
    _end_all()


def _report(channel: Channel[FromGateway], server: subprocess.Popen[bytes]) -> None:
    status = server.wait()
    try:
        channel.send(Exited(status))
    except OSError:  # the gateway has gone
        log.debug("nobody is left to hear of the end of vLLM")
    _end_all()  # without its server nothing of it is of use


def _end_all() -> None:
    """Everything this process has started, and what that has started."""
    ours = psutil.Process()
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        left = ours.children(recursive=True)  # anew each time: they start others as they go
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=GRACE_SECONDS)
    if left := ours.children(recursive=True):
        log.warning("%d processes of vLLM do not end", len(left))


if __name__ == "__main__":
    main()
    os._exit(0)
