"""`freehold deploy`: manifests for a service manager, from the settings as they are now."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, settings_from
from freehold.cli.completing import MODEL
from freehold.cli.setting_flags import given_flags, setting_flags
from freehold.deploy import compose, kubernetes, systemd
from freehold.deploy.order import Cluster, File, Order, Target
from freehold.domain.errors import InvalidReference, InvalidRequest
from freehold.domain.settings import Settings, default_policy
from freehold.trust.policy import read_policy
from freehold.weights.files import write_atomically
from freehold.weights.reference import NameReference, PathReference, parse

_STDOUT = "-"
_FILES = {
    Target.COMPOSE: compose.files,
    Target.KUBERNETES: kubernetes.files,
    Target.SYSTEMD: systemd.files,
}
_ORDINARY = Order(settings=Settings(home=Path("/")))
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SIZE = re.compile(r"[1-9][0-9]{0,8}[MGT]i")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")
_WEIGHTS = re.compile(r"/weights(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_FOR_ALL = 0o644
_COUNT = click.IntRange(1, 1024)


@click.command("deploy")
@click.argument("models", nargs=-1, shell_complete=MODEL)
@click.option(
    "--target",
    required=True,
    type=click.Choice([each.value for each in Target]),
    help="What starts the server.",
)
@click.option(
    "--output", "-o", metavar="DIR", help="The folder to write (freehold-TARGET); - prints instead."
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--image", help=f"The server's image ({_ORDINARY.image}).")
@click.option("--program", help=f"Where freehold is, for systemd ({_ORDINARY.program}).")
@click.option("--gpus", type=click.IntRange(0, 1024), default=0, help="NVIDIA GPUs it gets (0).")
@click.option("--storage", metavar="SIZE", help=f"The store on Kubernetes ({_ORDINARY.storage}).")
@click.option(
    "--namespace", "namespaces", multiple=True, help="On Kubernetes: whose pods may use it, too."
)
@click.option(
    "--engine",
    type=click.Choice(["llama.cpp", "vllm"]),
    default="llama.cpp",
    help="vllm: MODEL runs on vLLM over Ray, behind this server (Kubernetes).",
)
@click.option("--tensor-parallel", type=_COUNT, default=1, help="vLLM: GPUs that share a layer.")
@click.option("--pipeline-parallel", type=_COUNT, default=1, help="vLLM: stages of layers.")
@click.option("--gpus-per-node", type=_COUNT, default=1, help="vLLM: GPUs of each machine.")
@click.option("--vllm-image", help="vLLM: an image that has vLLM and Ray.")
@click.option("--ray-version", default="2.60.0", help="vLLM: the version of Ray in it (2.60.0).")
@click.option("--weights-claim", default="weights", help="vLLM: the volume claim with the weights.")
@click.option("--weights", default="/weights", help="vLLM: their folder; the volume is /weights.")
@setting_flags
@JSON_OPTION
def command(
    models: tuple[str, ...],
    target: str,
    output: str | None,
    force: bool,
    image: str | None,
    program: str | None,
    gpus: int,
    storage: str | None,
    namespaces: tuple[str, ...],
    engine: str,
    as_json: bool,
    **cluster: Any,
) -> None:
    """Write what starts `freehold serve MODELS` elsewhere, with the settings as they are here.

    MODELS are fetched before the start and loaded at it. Secrets are in no file that is written:
    each target names the file or the Secret to be filled. Flags are those of `serve`.
    """
    settings = settings_from(**given_flags())
    vllm = engine == "vllm"
    order = Order(
        settings=settings,
        models=() if vllm else tuple(map(_fetchable, models)),
        policy=_policy(settings),
        image=_image(image or _ORDINARY.image, "--image"),
        program=_absolute(program or _ORDINARY.program),
        gpus=gpus,
        storage=_matching(_SIZE, storage or _ORDINARY.storage, "--storage", "50Gi"),
        namespaces=tuple(_matching(_NAMESPACE, each, "--namespace", "web") for each in namespaces),
        cluster=_cluster(Target(target), models, **cluster) if vllm else None,
    )
    files = _FILES[Target(target)](order)
    if as_json:
        print_json({"target": target, "files": {file.name: file.text for file in files}})
    elif output == _STDOUT:
        click.echo(_joined(Target(target), files), nl=False)
    else:
        _write(Path(output or f"freehold-{target}"), files, force=force)


def _fetchable(text: str) -> str:
    reference = parse(text)
    if isinstance(reference, PathReference):
        raise InvalidReference(
            f"{text} is a file of this machine, and the server may be on another.",
            hint="Name it by what it is fetched from, or put it into that server's store yourself.",
        )
    return str(reference)


def _policy(settings: Settings) -> str | None:
    """The text of the policy file that `serve` would read, which is a good one."""
    path = settings.policy or default_policy()
    read_policy(path, required=settings.policy is not None)
    return path.read_text("utf-8") if path.exists() else None


def _cluster(target: Target, models: tuple[str, ...], **given: Any) -> Cluster:
    """The machines vLLM runs on. Raises what says which flag is missing, or does not add up."""
    if target is not Target.KUBERNETES:
        raise InvalidRequest(
            f"vLLM over Ray is written for Kubernetes, not for {target}.",
            hint="docs/cluster.md says how it is started by hand.",
        )
    if len(models) != 1:
        raise InvalidRequest("With --engine vllm one MODEL is named: what clients call it.")
    name = parse(models[0])
    if not isinstance(name, NameReference):
        raise InvalidReference(
            f"{models[0]} says where a model comes from, and with --engine vllm MODEL is its name.",
            hint="Name it like qwen3:32b, and say with --weights where its files are.",
        )
    if given["vllm_image"] is None:
        raise InvalidRequest(
            "--vllm-image is missing: an image that has vLLM and Ray.",
            hint="docs/cluster.md says how one is built.",
        )
    cluster = Cluster(
        model=str(name),
        image=_image(given["vllm_image"], "--vllm-image"),
        claim=_matching(_NAMESPACE, given["weights_claim"], "--weights-claim", "weights"),
        weights=_matching(_WEIGHTS, given["weights"], "--weights", "/weights/qwen3-32b"),
        tensor=given["tensor_parallel"],
        pipeline=given["pipeline_parallel"],
        gpus=given["gpus_per_node"],
        ray=_matching(_VERSION, given["ray_version"], "--ray-version", "2.60.0"),
    )
    if cluster.size % cluster.gpus:
        raise InvalidRequest(
            f"{cluster.size} GPUs do not fill machines that have {cluster.gpus}.",
            hint="Tensor times pipeline must be a multiple of --gpus-per-node.",
        )
    return cluster


def _matching(form: re.Pattern[str], text: str, flag: str, example: str) -> str:
    if form.fullmatch(text) is None:
        raise InvalidRequest(f"{flag} cannot be {text!r}.", hint=f"It looks like {example}.")
    return text


def _image(text: str, flag: str) -> str:
    return _matching(_IMAGE, text, flag, "registry.example/freehold:0.1.0")


def _absolute(path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise InvalidRequest(f"{path!r} must be a whole path, from / on.")
    return path


def _joined(target: Target, files: Iterable[File]) -> str:
    """As one text: for Kubernetes what `kubectl apply -f -` takes, else each under its name."""
    parts = list(files)
    if target is Target.KUBERNETES:
        return "---\n".join(file.text for file in parts if file.name.endswith(".yaml"))
    return "\n".join(f"==> {file.name} <==\n{file.text}" for file in parts)


def _write(folder: Path, files: tuple[File, ...], *, force: bool) -> None:
    """All of them, or none where one is there already."""
    there = [file.name for file in files if (folder / file.name).exists()]
    if there and not force:
        raise InvalidRequest(
            f"{folder} has {', '.join(there)} already; nothing was written.",
            hint="--force replaces them, --output names another folder.",
        )
    for file in files:
        write_atomically(folder / file.name, file.text.encode())
        # The server, who is another user, reads them; nothing in them is a secret.
        (folder / file.name).chmod(_FOR_ALL)
        click.echo(folder / file.name)
    notice("No secret is in these files. The first lines of each say what is to be done.")
