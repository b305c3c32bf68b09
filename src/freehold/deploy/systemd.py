"""A unit of systemd. `deploy/freehold.service` is this one, for settings that are all default."""

from __future__ import annotations

import re

from freehold.deploy.carried import carry, grace, memory_limit, secrets_example
from freehold.deploy.order import CONFIGURATION, File, Order, Proof, heading

_SECRETS = "/etc/freehold/environment"
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,=-]+")
_UNIT = """\
[Unit]
Description=freehold: open-weight language models
Documentation=file:///opt/freehold/docs/operations.md
After=network.target

[Service]
# SIGHUP makes it read its file again. (From systemd 253 on, notify-reload says it in one word.)
Type=notify
ExecReload=/bin/kill -HUP $MAINPID
ExecStart={command}
Environment=FREEHOLD_HOME=%S/freehold FREEHOLD_CONFIG={configuration}
# A dynamic user has no folder of its own.
Environment=HOME=%S/freehold
# FREEHOLD_API_KEY=… and other secrets, in a file that only root can read.
EnvironmentFile={optional}{secrets}
StateDirectory=freehold
StateDirectoryMode=0700
ConfigurationDirectory=freehold

# Ready means that the models of `pin` are loaded, which from a slow disk takes minutes.
TimeoutStartSec=15min
# The event loop gives a sign of life every 30 seconds.
WatchdogSec=60
Restart=on-failure
RestartSec=2
# What was asked wrongly (a setting, for example) is wrong the next time, too.
RestartPreventExitStatus=2
# Only the server is told to stop: its workers must live to finish the answers under way.
KillMode=mixed
# Longer than the setting `drain`.
TimeoutStopSec={grace}

# What this may take of the machine. The setting `memory_budget` follows MemoryMax by itself.
{memory}
#CPUQuota=800%
LimitCORE=0
LimitNOFILE=65536

DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
{devices}
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# The last four: the children give up more than this unit takes from them.
SystemCallFilter=@system-service seccomp
SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def files(order: Order) -> tuple[File, ...]:
    """The unit, and what goes into `/etc/freehold`."""
    carried = carry(order, container=False)
    limit = memory_limit(order.settings)
    unit = _UNIT.format(
        command=" ".join(map(_argument, (order.program, "serve", *order.models))),
        configuration=CONFIGURATION,
        secrets=_SECRETS,
        optional="" if carried.secrets else "-",
        grace=grace(order.settings),
        memory="#MemoryMax=24G" if limit is None else f"MemoryMax={limit}M",
        devices="# Take this out for a GPU.\nPrivateDevices=yes"
        if order.gpus == 0
        else "# The GPU is a device.\nPrivateDevices=no",
    )
    how = f"Fill in what is empty and keep it as {_SECRETS}, for root alone (mode 0600)."
    examples = (secrets_example(carried, how),) if carried.secrets else ()
    top = heading("freehold as a service of systemd", Proof.SYSTEMD, _notes(order))
    return (File("freehold.service", top + unit), *carried.files, *examples)


def _notes(order: Order) -> list[str]:
    notes = [
        "docs/operations.md says how to put it in place. The store is systemd's own, "
        "/var/lib/freehold, wherever it was for whoever wrote this.",
    ]
    if order.fetched:
        notes.append(f"To be fetched into that store before the start: {', '.join(order.fetched)}.")
    return notes


def _argument(text: str) -> str:
    """As systemd splits a command: its own signs doubled, anything else unusual in quotes."""
    doubled = text.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(text):
        return doubled
    escaped = doubled.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
