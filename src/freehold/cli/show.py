"""`freehold show`: what is known of a model, and exactly what it would see."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from freehold.cli.common import JSON_OPTION, notice, print_json, progress, settings_from, size
from freehold.cli.completing import MODEL
from freehold.cli.pull import announce, summary, template_lines
from freehold.cli.upstream_words import facts, lines
from freehold.domain.chat import Conversation, Message, Role
from freehold.domain.errors import InvalidRequest, ModelNotPulled
from freehold.domain.settings import Settings
from freehold.domain.upstreams import Upstream
from freehold.machine.profile import Profile
from freehold.runtime.profiles import Holding
from freehold.text.client import Prompt, TextService
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Verdict
from freehold.trust.wording import verdict_data
from freehold.weights.catalog import CatalogModel
from freehold.weights.checkpoint import quantisation
from freehold.weights.derived import config_of
from freehold.weights.library import Library, LocalModel, is_safetensors


@click.command("show")
@click.argument("reference", shell_complete=MODEL)
@click.option("--prompt", metavar="MESSAGE", help="Print exactly what the model would see.")
@click.option("--system", metavar="TEXT", help="With --prompt: a system message before it.")
@click.option("--template", is_flag=True, help="Print the model's chat template.")
@click.option(
    "--template-diff", metavar="OTHER", help="Print how the template differs from OTHER's."
)
@JSON_OPTION
def command(
    reference: str,
    prompt: str | None,
    system: str | None,
    template: bool,
    template_diff: str | None,
    as_json: bool,
) -> None:
    """Show what is known of REFERENCE: files, digests, origin, header, licence; of an upstream,
    where it is asked.
    """
    settings = settings_from()
    upstream = settings.upstreams.get(settings.aliases.get(reference, reference))
    if upstream is not None:
        _show_upstream(
            upstream, as_json, asks=prompt is not None or template or bool(template_diff)
        )
        return
    library = Library.open(settings)
    try:
        model = library.local(reference, progress=progress())
    except ModelNotPulled:
        row = library.row(library.reference(reference))
        if prompt is not None or template or template_diff or row is None:
            raise
        _show_row(row, as_json)
        return
    if prompt is not None:
        _show_prompt(model, prompt, system, as_json)
    elif template:
        click.echo(model.header.chat_template or "")
    elif template_diff is not None:
        _show_difference(model, library.local(template_diff, progress=progress()))
    else:
        announce(library, reference)
        _show_model(library, model, as_json, settings)


def _show_upstream(upstream: Upstream, as_json: bool, *, asks: bool) -> None:
    """``asks``: for the prompt or the template."""
    if asks:
        raise InvalidRequest(
            f"{upstream.name} is an upstream and keeps its own template: what it makes of messages "
            "cannot be shown here."
        )
    if as_json:
        print_json(facts(upstream))
        return
    told = lines(upstream)
    width = max(len(name) for name, _ in told)
    for name, value in told:
        click.echo(f"{name.ljust(width)}  {value}")


def _show_prompt(model: LocalModel, text: str, system: str | None, as_json: bool) -> None:
    messages = (Message(Role.SYSTEM, system),) if system else ()
    prompt = asyncio.run(_render(model, (*messages, Message(Role.USER, text))))
    if as_json:
        print_json({"prompt": prompt.text, "tokens": list(prompt.tokens)})
        return
    click.echo(prompt.text, nl=not prompt.text.endswith("\n"))
    notice(f"{len(prompt.tokens)} tokens")


async def _render(model: LocalModel, messages: tuple[Message, ...]) -> Prompt:
    from freehold.runtime.chat import vocabulary_source

    text = TextService()
    try:
        return await text.render(vocabulary_source(model), Conversation(messages))
    finally:
        await text.close()


def _show_model(library: Library, model: LocalModel, as_json: bool, settings: Settings) -> None:
    dossiers = Dossiers.open(library)
    dossier = dossiers.of(model)
    verdict, template = dossier.verdict, dossiers.template(model, dossier)
    if as_json:
        held = Holding(library, settings).of(model.digest)
        print_json(
            {
                **_facts(model, verdict),
                "quantisation": _quantisation(library, model),
                "template": template.data if template else None,
                "profile": msgspec.to_builtins(held.profile) if held else None,
                "profile_objection": held.objection if held else None,
            }
        )
        return
    header = model.header
    lines: list[tuple[str, str]] = [
        ("Name", model.name),
        ("Title", header.text("general.name") or "not stated in the file"),
        (
            "Architecture",
            f"{header.architecture}, {header.parameter_count / 1e6:,.0f} M parameters",
        ),
        ("Quantisation", _quantisation(library, model) or "not stated in the file"),
        ("Context", _context(model, settings)),
        (
            "Template",
            f"in the file: {template.sentence}"
            if template
            else "none: the model continues text, it does not answer",
        ),
        ("Size", size(model.size)),
    ]
    for path in model.paths:
        lines.append(("File", str(path)))
    lines.append(("SHA-256", model.digest))
    if model.manifest is not None:
        lines += [
            ("From", model.manifest.origin),
            ("Revision", model.manifest.revision or "none"),
            ("Fetched", model.manifest.fetched_at),
            ("Base models", ", ".join(model.manifest.base_models) or "none declared"),
        ]
    held = Holding(library, settings).of(model.digest)
    if held is not None:
        lines.append(("Profile", _profile_words(held.profile, held.objection)))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name.ljust(width)}  {value}")
    for line in (*summary(model.reference, verdict), *template_lines(template)):
        click.echo(line)
    if template is not None and template.changes:
        click.echo(template.changes)


def _context(model: LocalModel, settings: Settings) -> str:
    trained = f"trained for {model.header.context_length or 'an unknown number of'} tokens"
    if model.manifest is not None and is_safetensors(model.manifest):
        return f"{trained}; with how many vLLM loads it says: freehold plan {model.reference}"
    return f"{trained}; loaded with at most {settings.context}"


def _quantisation(library: Library, model: LocalModel) -> str | None:
    """As the file says, or the configuration beside weights in safetensors."""
    if model.manifest is None or not is_safetensors(model.manifest):
        return model.header.quantisation
    config = config_of(library.store, model.manifest)
    return quantisation(config) or "none: weights of 16 or 32 bits"


def _profile_words(profile: Profile, objection: str | None) -> str:
    weights = profile.quantisation or "the weights as they are"
    loss = f" (mean KL divergence {profile.loss.divergence:.3f})" if profile.loss else ""
    state = f"not used: it {objection}" if objection else "used by run and serve"
    return (
        f"of {profile.date}, {weights}{loss}, {profile.settings.text}; "
        f"{profile.gain:.2f} times as fast as untuned; {state}"
    )


def _show_difference(model: LocalModel, other: LocalModel) -> None:
    from freehold.trust.template_audit import difference

    mine, theirs = model.header.chat_template or "", other.header.chat_template or ""
    click.echo(difference(mine, theirs) or f"{model.name} and {other.name} have the same template.")


def _facts(model: LocalModel, verdict: Verdict) -> dict[str, Any]:
    header, manifest = model.header, model.manifest
    return {
        "name": model.name,
        "architecture": header.architecture,
        "parameters": header.parameter_count,
        "context_trained": header.context_length,
        "has_template": header.chat_template is not None,
        "size": model.size,
        "sha256": model.digest,
        "paths": [str(path) for path in model.paths],
        "origin": manifest.origin if manifest else None,
        "revision": manifest.revision if manifest else None,
        "licence_declared": manifest.licence if manifest else header.text("general.license"),
        "licence_source": manifest.licence_source if manifest else "the file's header",
        "base_models": list(manifest.base_models) if manifest else [],
        "licence": verdict_data(verdict),
    }


def _show_row(row: CatalogModel, as_json: bool) -> None:
    if as_json:
        print_json({"here": False, **msgspec.to_builtins(row)})
        return
    notice(f"{row.reference} is not on this machine; this is what the catalogue says.")
    facts = row.architecture
    pairs = [
        ("Title", row.title),
        ("Note", row.note),
        ("Upstream", row.upstream),
        ("Licence as declared", row.declared_licence),
        ("Base models", ", ".join(row.base_model) or None),
        ("Parameters", f"{facts.parameters:,}" if facts.parameters else facts.parameters_stated),
        ("Context", f"{facts.context_length:,} tokens" if facts.context_length else None),
        ("Read in", " ".join(row.source)),
        ("Checked", row.checked.isoformat()),
    ]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name.ljust(width)}  {value or 'not known'}")
