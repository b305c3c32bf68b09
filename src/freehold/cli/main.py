"""`freehold`: finds the command, runs it, and turns what goes wrong into one sentence.

Exit status: 0 done, 1 a defect or an unhealthy check, 2 asked wrongly, 3 no such model, 4 a file
that will not be used, 5 not available now, 6 the engine failed, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import version

import click

from freehold.domain import errors
from freehold.domain.errors import FreeholdError
from freehold.runtime import logs

# Command -> (module, one line for --help). Modules are imported when their command runs.
_COMMANDS = {
    "run": ("run", "Ask a model; without a prompt, hold a conversation."),
    "serve": ("serve", "Serve models over HTTP (OpenAI's API)."),
    "ps": ("ps", "List the models in memory."),
    "load": ("load", "Have a running server load a model."),
    "stop": ("stop_model", "Have running servers unload a model."),
    "pull": ("pull", "Fetch a model and verify it."),
    "plan": ("plan", "Say which models fit this machine, and how fast they should be."),
    "list": ("list_models", "List the models here, or all that are known by name."),
    "show": ("show", "Show what is known of a model, and what it would see."),
    "licence": ("licence", "Say what a model's licences allow: to run it, to serve it."),
    "notice": ("notice_files", "Write what must travel with a model's weights into a folder."),
    "lock": ("lock", "Print the record of what a model is, down to the byte."),
    "verify-files": ("verify_files", "Hash a model's files in full, and compare."),
    "sbom": ("sbom", "Print a model as a CycloneDX bill of materials."),
    "tune": ("tune", "Find the fastest format and settings for a model here."),
    "convert": ("convert", "Make a model's weights readable for vLLM."),
    "engine": ("engine", "Install, list and remove further engines (vLLM)."),
    "rm": ("rm", "Remove a model."),
    "prune": ("prune", "Delete what no model needs."),
    "import": ("import_models", "Take over models other programs have fetched."),
    "key": ("key", "Issue, list and revoke API keys, and see what each has used."),
    "config": ("config", "Show the settings, and where each came from."),
    "deploy": ("deploy", "Write manifests for systemd, Compose or Kubernetes."),
    "bench": ("bench", "Measure how fast a model, or any server, answers under load."),
    "doctor": ("doctor", "Check this machine and this installation."),
    "completion": ("completion", "Print the shell's completion script."),
}

_EXIT_STATUS: dict[type[FreeholdError], int] = {
    errors.RequestError: 2,
    errors.NotFound: 3,
    errors.RefusedFile: 4,
    errors.Unavailable: 5,
    errors.EngineError: 6,
    errors.FreeholdError: 1,
}


class _Commands(click.Group):
    """Commands by name, imported one at a time: `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"freehold.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("freehold"), prog_name="freehold")
def cli() -> None:
    """Open-weight language models on hardware you own.

    Try: freehold run qwen2.5-coder:0.5b "Why is the sky blue?"
    """


def exit_status(error: FreeholdError) -> int:
    return next(_EXIT_STATUS[kind] for kind in type(error).__mro__ if kind in _EXIT_STATUS)


def main() -> None:
    """The console script."""
    logs.configure("warning", "text")
    try:
        result = cli(standalone_mode=False)
    except FreeholdError as error:
        click.echo(f"freehold: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(exit_status(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has enough; closing stdout quietly is what it expects.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        click.echo(f"freehold: {error.strerror or error}.", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
