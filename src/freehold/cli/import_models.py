"""`freehold import`: take over models other programs have fetched, or a file of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from freehold.cli.common import (
    JSON_OPTION,
    notice,
    print_json,
    print_table,
    progress,
    settings_from,
    size,
)
from freehold.cli.pull import as_data
from freehold.domain.errors import InvalidReference, UnknownModel
from freehold.domain.settings import environment
from freehold.weights.files import require_file
from freehold.weights.importing import Find, Transfer, find_all, take
from freehold.weights.library import parts_beside
from freehold.weights.reference import NameReference, PathReference, parse
from freehold.weights.registry import Registry
from freehold.weights.store import Store


@click.command("import")
@click.argument("what", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Take everything that is found.")
@click.option("--name", help="The name of a single imported model, such as my-model:7b.")
@click.option(
    "--link",
    is_flag=True,
    help="Hard-link instead of copying: no space, but a change "
    "to the original changes the model too.",
)
@JSON_OPTION
def command(
    what: tuple[str, ...], everything: bool, name: str | None, link: bool, as_json: bool
) -> None:
    """Take over models without downloading them.

    Without arguments: list what Ollama, the Hugging Face cache and LM Studio hold. WHAT is one
    of the names in that list, or the path of a .gguf file.
    """
    store = Store.open(settings_from().home)
    found = find_all(environment(), Path.home())
    if not what and not everything:
        _list(store, found, as_json)
        return
    chosen = [_choose(text, found) for text in what] if what else list(found)
    if name is not None:
        if len(chosen) != 1:
            raise InvalidReference("--name names one model, and several were given.")
        chosen = [_renamed(chosen[0], name)]
    transfer = Transfer.HARD_LINK if link else Transfer.COPY
    watcher = progress()
    manifests = [take(store, find, watcher, transfer) for find in chosen]
    if as_json:
        print_json([as_data(manifest) for manifest in manifests])
        return
    for manifest in manifests:
        notice(
            f"{manifest.reference}, {size(manifest.size)}, from {manifest.origin}; "
            f"sha256 {manifest.files[0].sha256}"
        )


def _list(store: Store, found: tuple[Find, ...], as_json: bool) -> None:
    here = {manifest.reference for manifest in Registry(store).all()}
    if as_json:
        print_json(
            [
                {
                    "reference": f.reference,
                    "owner": f.owner,
                    "size": f.size,
                    "paths": [str(path) for path in f.paths],
                    "here": f.reference in here,
                }
                for f in found
            ]
        )
        return
    if not found:
        notice("Ollama's store, the Hugging Face cache and LM Studio's folder hold no models.")
        return
    print_table(
        ("NAME", "SIZE", "FROM", ""),
        (
            (f.reference, size(f.size), f.owner, "here" if f.reference in here else "")
            for f in found
        ),
    )
    notice("Take one with `freehold import NAME`, or all with `freehold import --all`.")


def _choose(text: str, found: tuple[Find, ...]) -> Find:
    for find in found:
        if find.reference == text:
            return find
    reference = parse(text)
    if not isinstance(reference, PathReference):
        near = tuple(find.reference for find in found if text in find.reference)
        raise UnknownModel(
            text, near=near, hint=None if near else "`freehold import` lists what can be imported."
        )
    require_file(reference.path)
    paths = parts_beside(reference.path)
    stem = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "-"
        for c in reference.path.stem.lower()
    )
    return Find(
        reference=f"{stem.lstrip('._-') or 'model'}:imported",
        owner="file",
        paths=paths,
        size=sum(path.stat().st_size for path in paths),
    )


def _renamed(find: Find, name: str) -> Find:
    reference = parse(name)
    if not isinstance(reference, NameReference) or reference.tag is None:
        raise InvalidReference(
            f"{name!r} is not a name with a tag.", hint="Write something like my-model:7b."
        )
    return Find(str(reference), find.owner, find.paths, find.size, find.revision, find.sha256)
