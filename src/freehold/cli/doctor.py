"""`freehold doctor`: what was built, what it uses, and what is wrong."""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, settings_from, size
from freehold.cli.completing import LOCAL_MODEL
from freehold.cli.upstream_words import key_words
from freehold.domain.engine import Kernels
from freehold.domain.errors import FreeholdError, OfflineRefused
from freehold.domain.settings import Settings, environment
from freehold.domain.upstreams import Upstream, host_of
from freehold.engines.llamacpp.build import Build, installed, rebuild_command
from freehold.engines.upstream.client import Checked
from freehold.engines.upstream.replicas import Sign
from freehold.machine.compiler import find_compiler
from freehold.machine.probe import probe
from freehold.process.child import child_environment, describe_exit
from freehold.process.confine import Confinement, Layer
from freehold.process.decoding import from_json
from freehold.runtime import native
from freehold.runtime import server as announcement
from freehold.trust.egress import refuse_egress
from freehold.weights.store import Store

# Imported by the trial before it confines itself, as the children do.
_CHILDREN = ("freehold.engines.llamacpp.worker", "freehold.text.child")
_LEFT_OUT = "A server with them checks on them, and sends them what is asked of them."
_NOBODY = "192.0.2.1"  # an address of documentation, nobody's


@dataclass(frozen=True)
class Finding:
    """One line. ``hint`` is what to do; ``ok`` False makes doctor's exit status 1."""

    name: str
    value: str
    ok: bool = True
    hint: str | None = None


@click.command("doctor")
@click.argument("model", required=False, shell_complete=LOCAL_MODEL)
@click.option(
    "--egress", is_flag=True, help="Run MODEL (or a tiny one) and list every connection attempted."
)
@click.option("--upstreams", is_flag=True, help="Ask the upstreams how they are, too.")
@JSON_OPTION
def command(model: str | None, egress: bool, upstreams: bool, as_json: bool) -> int:
    """Check this machine and this installation; exit status 1 if something is wrong."""
    settings = settings_from()
    if egress:
        return _egress(settings, model, as_json)
    if model is not None:
        raise click.UsageError("MODEL goes with --egress.")
    findings = [
        *_machine(settings),
        *_native(settings),
        *_store(settings),
        *_network(settings),
        *_upstreams(settings, ask=upstreams),
    ]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    return _status(findings)


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = " " if finding.ok else "!"
        click.echo(f"{mark} {finding.name.ljust(width)}  {finding.value}")
        if finding.hint:
            click.echo(f"  {' ' * width}  {finding.hint}")


def _status(findings: list[Finding]) -> int:
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        notice(f"{wrong} of {len(findings)} need attention.")
    return 1 if wrong else 0


def _egress(settings: Settings, model: str | None, as_json: bool) -> int:
    from freehold.cli.egress import check

    report = check(settings, model)
    if as_json:
        print_json(report.as_data())
        return 1 if report.left else 0
    findings = [
        Finding("Model", f"{report.model}; {report.tokens} tokens streamed"),
        Finding("Observed by", report.means),
        Finding("Not observed", report.unseen or "nothing"),
        Finding("On this machine", f"{len(report.stayed)} connections"),
        *(Finding("Beyond it", str(attempt), ok=False) for attempt in report.left),
    ]
    if not report.left:
        findings.append(Finding("Beyond it", "nothing was attempted"))
    if settings.upstreams:
        findings.append(
            Finding("Left out", f"the upstreams: {', '.join(settings.upstreams)}", hint=_LEFT_OUT)
        )
    _print(findings)
    return _status(findings)


def _machine(settings: Settings) -> list[Finding]:
    computer = probe(settings.home, environment())
    processor, memory = computer.processor, computer.memory
    limit = f", limited by {memory.limited_by}" if memory.limited_by else ""
    return [
        Finding("freehold", version("freehold")),
        Finding("Python", f"{platform.python_version()} at {sys.executable}"),
        Finding("Processor", f"{processor.name}, {processor.cores} cores usable"),
        Finding("Memory", f"{size(memory.total)}, {size(memory.available)} available{limit}"),
        *(
            Finding("Graphics", f"{gpu.name}, {size(gpu.total)}, {size(gpu.available)} available")
            for gpu in computer.gpus
        ),
    ]


def _native(settings: Settings) -> list[Finding]:
    build = installed()
    if build is None:
        return [
            Finding(
                "llama.cpp",
                "llama-cpp-python is not installed",
                ok=False,
                hint="Install freehold again with its dependencies.",
            )
        ]
    compiler = find_compiler((environment().get("CXX") or "c++").split()[0])
    found = [
        Finding("llama.cpp", f"llama-cpp-python {build.version}"),
        Finding(
            "Compiler now",
            f"{compiler.family} {compiler.version[0]}.{compiler.version[1]}"
            if compiler
            else "none found (needed only to build)",
        ),
    ]
    info = system_info()
    if info is None:
        return [
            *found,
            Finding(
                "Native build",
                "it does not load",
                ok=False,
                hint=f"Rebuild: {rebuild_command(build.version)}",
            ),
        ]
    used = sorted(name for name, on in info.items() if on)
    found.append(Finding("Instruction sets", " ".join(used) or "none reported"))
    return [*found, *_kernels(settings, build, info)]


def _kernels(settings: Settings, build: Build, info: dict[str, bool]) -> list[Finding]:
    try:
        verdict = asyncio.run(native.check(settings.home / "state", notice=notice, build=build))
    except FreeholdError as error:
        return [Finding("Test decode", error.message, ok=False, hint=error.hint)]
    fast = verdict.kernels is Kernels.FAST
    found = [
        Finding(
            "Test decode",
            "passed with the fast kernels"
            if fast
            else f"passed with the plain kernels only: with the fast ones, {verdict.failure}",
            ok=fast,
            hint=None if fast else f"Rebuild: {rebuild_command(build.version)}",
        )
    ]
    return [*found, amx_finding(cpu_has_amx(), info.get("AMX_INT8", False), fast, build.version)]


def amx_finding(in_cpu: bool, in_build: bool, fast: bool, build_version: str) -> Finding:
    """AMX needs three things: a CPU that has it, a build that uses it, and a test that passed."""
    if not in_cpu:
        return Finding("AMX", "this processor has none")
    if in_build and fast:
        return Finding("AMX", "alive")
    reason = "built in, but its test failed" if in_build else "the build does not use it"
    return Finding("AMX", reason, ok=False, hint=f"Rebuild: {rebuild_command(build_version)}")


def cpu_has_amx() -> bool:
    try:
        return " amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def system_info() -> dict[str, bool] | None:
    """llama.cpp's list of instruction sets, asked in a child; None if the library fails."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "freehold.engines.llamacpp.probe", "info"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=child_environment(environment()),
    )
    if result.returncode != 0:
        notice(f"The process that loads llama.cpp {describe_exit(result.returncode)}.")
        return None
    parsed: dict[str, bool] = json.loads(result.stdout)
    return parsed


def _store(settings: Settings) -> list[Finding]:
    try:
        store = Store.open(settings.home)
    except FreeholdError as error:
        return [Finding("Store", error.message, ok=False, hint=error.hint)]
    blobs = store.blobs()
    free = shutil.disk_usage(settings.home).free
    return [
        Finding("Store", f"{settings.home} ({settings.origins['home']})"),
        Finding("Models' files", f"{len(blobs)}, {size(sum(blob.size for blob in blobs))}"),
        Finding("Disk", f"{size(free)} free"),
    ]


def _network(settings: Settings) -> list[Finding]:
    servers = announcement.find_all(settings.home)
    return [
        Finding(
            "Offline", f"{'yes' if settings.offline else 'no'} ({settings.origins['offline']})"
        ),
        _gateway(settings),
        *confinement_findings(confinement()),
        Finding("Server", ", ".join(server.url for server in servers) or "none running"),
        Finding("Hub", settings.hub_endpoint or "huggingface.co, asked only by pull"),
    ]


def _upstreams(settings: Settings, *, ask: bool) -> list[Finding]:
    """Where what is asked of them goes. They are asked themselves only on demand."""
    if not settings.upstreams:
        return [Finding("Upstreams", "none: no model of another server can be asked")]
    found = [
        Finding(
            f"Upstream {name}",
            f"{each.destination}; key: {key_words(each)}",
            ok=not each.lacks_key,
        )
        for name, each in settings.upstreams.items()
    ]
    if not ask:
        return found
    return [*found, *asyncio.run(_asked(settings))]


async def _asked(settings: Settings) -> list[Finding]:
    from freehold.runtime.upstreams import Upstreams

    upstreams = Upstreams(settings.upstreams, offline=settings.offline)
    found: list[Finding] = []
    try:
        for name in settings.upstreams:
            try:
                engine = upstreams.engine(name)
            except OfflineRefused as error:
                found.append(Finding(f"Upstream {name}", error.message, ok=False))
                continue
            assert engine is not None
            for url, checked in (await engine.check()).items():
                found.append(_replica(engine.upstream, url, checked))
    finally:
        await upstreams.close()
    return found


def _replica(upstream: Upstream, url: str, checked: Checked) -> Finding:
    name = f"Replica {host_of(url)}"
    if checked.sign is not Sign.WELL:
        return Finding(name, checked.why, ok=False)
    if checked.models and upstream.model not in checked.models:
        return Finding(
            name,
            f"well, and does not list {upstream.model}",
            ok=False,
            hint=f"It lists: {', '.join(sorted(checked.models)[:8])}.",
        )
    return Finding(name, "well")


def _gateway(settings: Settings) -> Finding:
    """What `serve` and `run` may do, tried here: the hook is the same."""
    if not settings.offline:
        return Finding("Gateway", "may use the network: freehold is not offline")
    refuse_egress()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((_NOBODY, 9))  # a datagram socket: nothing is sent
    except OfflineRefused:
        return Finding(
            "Gateway",
            "reaches nobody beyond this machine: audit hook, and where children are denied the "
            "network, seccomp once it has started",
        )
    return Finding("Gateway", "the audit hook does not hold", ok=False)


def confinement() -> Confinement:
    """What a child here cannot do, tried in one that is set up as they are."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "freehold.process.trial", *_CHILDREN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=child_environment(environment()),
    )
    if result.returncode != 0:
        none = Layer(False, f"the trial {describe_exit(result.returncode)}")
        return Confinement(network=none, files=none)
    return from_json(result.stdout, Confinement)


def confinement_findings(confined: Confinement) -> list[Finding]:
    """Older kernels have no Landlock and other systems neither: a fact, not a fault."""
    network, files = confined.network, confined.files
    return [
        Finding(
            "Children's network",
            f"denied ({network.detail}; tried)" if network.active else f"open: {network.detail}",
            ok=network.active or sys.platform != "linux",
        ),
        Finding(
            "Children's writing",
            f"denied ({files.detail}; tried)" if files.active else f"open: {files.detail}",
        ),
    ]
