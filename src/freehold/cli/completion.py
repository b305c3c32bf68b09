"""`freehold completion`: the script that teaches a shell our commands and model names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: freehold completion bash > ~/.local/share/bash-completion/completions/freehold
    """
    from freehold.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "freehold", "_FREEHOLD_COMPLETE").source())
