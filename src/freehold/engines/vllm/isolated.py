"""`python -m freehold.engines.vllm.isolated PROGRAM …`: run it in a network of its own."""

from __future__ import annotations

import os
import sys

from freehold.process.inside import die_with_parent, leave_no_core
from freehold.process.isolation import leave_network


def main() -> None:
    die_with_parent()
    leave_no_core()
    network = leave_network()
    if not network.active:
        print(f"It keeps the network: {network.detail}.", file=sys.stderr)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - words of ours, and no shell


if __name__ == "__main__":
    main()
