"""`freehold load`: have a running server load a model."""

from __future__ import annotations

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, settings_from, size
from freehold.cli.completing import LOCAL_MODEL
from freehold.domain.durations import seconds
from freehold.domain.errors import InvalidRequest


@click.command("load")
@click.argument("name", shell_complete=LOCAL_MODEL)
@click.option("--pin", is_flag=True, help="It stays until `freehold stop` unloads it.")
@click.option("--keep-alive", metavar="DURATION", help="How long it stays unused: 5m, forever.")
@click.option("--server", "url", metavar="URL", help="Which of several servers.")
@JSON_OPTION
def command(name: str, pin: bool, keep_alive: str | None, url: str | None, as_json: bool) -> None:
    """Have the running server load a model, and wait until it is ready."""
    from freehold.cli.servers import named, running, the_one

    if keep_alive is not None:
        _require_duration(keep_alive)
    with running(settings_from()) as servers:
        server = the_one(named(servers, url))
        body = {"model": name, "pin": pin, "keep_alive": keep_alive}
        loaded = server.post("/freehold/v1/models/load", body)
    if as_json:
        print_json({"server": server.url, **loaded})
        return
    measured = loaded["memory"]["measured_bytes"]
    takes = f", and takes {size(measured)}" if measured is not None else ""
    stays = " It is pinned." if loaded["pinned"] else ""
    notice(f"{loaded['model']} is loaded{takes}.{stays}")


def _require_duration(text: str) -> None:
    try:
        seconds(text)
    except ValueError:
        raise InvalidRequest(
            f"--keep-alive {text!r} is no duration.",
            hint='Durations are seconds, or as in 90s, 5m, 1h30m; "forever" for no end.',
        ) from None
