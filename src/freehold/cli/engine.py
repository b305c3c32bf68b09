"""`freehold engine`: engines that live in environments of their own."""

from __future__ import annotations

import click

from freehold.cli.common import (
    JSON_OPTION,
    OFFLINE_OPTION,
    notice,
    print_json,
    print_table,
    settings_from,
    size,
)

_ENGINE = click.argument("engine", type=click.Choice(["vllm"]))


@click.group("engine")
def command() -> None:
    """Install, list and remove further engines.

    llama.cpp is built in. vLLM is for graphics processors, and for many users at once.
    """


@command.command("install")
@_ENGINE
@click.option("--cpu", is_flag=True, help="The build without CUDA, whatever cards are here.")
@OFFLINE_OPTION
def install(engine: str, cpu: bool, offline: bool | None) -> None:
    """Fetch an engine into an environment of its own. Broken off, it goes on where it was."""
    from freehold.domain.settings import environment
    from freehold.engines.vllm.installation import Build, Place
    from freehold.engines.vllm.installing import Installer
    from freehold.machine.computer import GpuKind
    from freehold.machine.probe import probe

    settings = settings_from(offline=offline)
    here = probe(settings.home, environment())
    cuda = not cpu and any(card.kind is GpuKind.CUDA for card in here.gpus)
    build = Build.CUDA if cuda else Build.CPU
    # Secrets of ours are nobody's business there.
    environ = {
        name: value
        for name, value in environment().items()
        if not name.startswith(("FREEHOLD_", "HF_"))
    }
    place = Place.of(settings.home)
    installer = Installer(place, build, notice, environ, settings.offline, here.processor)
    done = installer.install()
    what = f"{done.build.value}, torch {done.torch}"
    click.echo(f"{engine} {done.version} ({what}), {size(done.size)}")


@command.command("list")
@JSON_OPTION
def list_engines(as_json: bool) -> None:
    """The engines here."""
    from freehold.engines.llamacpp.build import PACKAGE, installed
    from freehold.engines.vllm.installation import VERSION, Place

    own = installed()
    vllm = Place.of(settings_from().home).installed()
    if as_json:
        print_json(
            {
                "llama.cpp": {
                    "package": PACKAGE,
                    "version": None if own is None else own.version,
                },
                "vllm": None
                if vllm is None
                else {
                    "package": vllm.build.value,
                    "version": vllm.version,
                    "usable": vllm.version == VERSION,
                    "torch": vllm.torch,
                    "installed_at": vllm.at,
                    "bytes": vllm.size,
                },
            }
        )
        return
    rows = [("llama.cpp", f"{PACKAGE} {own.version if own else '(missing)'}", "built in")]
    if vllm is None:
        rows.append(("vllm", "-", "not installed: freehold engine install vllm"))
    else:
        fits = "" if vllm.version == VERSION else f"; this freehold needs {VERSION}"
        rows.append(("vllm", f"{vllm.build.value} {vllm.version}{fits}", size(vllm.size)))
    print_table(("ENGINE", "PACKAGE", ""), rows)


@command.command("remove")
@_ENGINE
def remove(engine: str) -> None:
    """Delete an engine and its environment. Models stay."""
    from freehold.engines.vllm.installation import Place

    place = Place.of(settings_from().home)
    if not place.folder.exists():
        notice(f"{engine} is not installed.")
        return
    place.remove()
    notice(f"{engine} is removed.")
