"""`freehold stop`: have running servers unload a model."""

from __future__ import annotations

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, settings_from
from freehold.cli.completing import LOCAL_MODEL


@click.command("stop")
@click.argument("name", shell_complete=LOCAL_MODEL)
@click.option("--server", "url", metavar="URL", help="Only this one of several servers.")
@JSON_OPTION
def command(name: str, url: str | None, as_json: bool) -> None:
    """Unload a model from the memory of running servers, pinned or not.

    What is in use leaves when its answers have ended.
    """
    from freehold.cli.servers import named, running

    with running(settings_from()) as servers:
        chosen = named(servers, url)
        answers = {
            server.url: server.post("/freehold/v1/models/unload", {"model": name})
            for server in chosen
        }
    if as_json:
        print_json([{"server": url, **answer} for url, answer in answers.items()])
        return
    for answer in answers.values():
        left = answer["left"]
        if left is None:
            notice(f"{answer['model']} is not in memory any more.")
        else:
            count = left["users"] + left["waiting"]
            whom = "1 request" if count == 1 else f"{count} requests"
            notice(f"{answer['model']} is in use by {whom}, and leaves when they have ended.")
