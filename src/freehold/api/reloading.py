"""SIGHUP: a running server takes what it can of changed settings, and says what it cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable

from freehold.domain.errors import FreeholdError
from freehold.domain.settings import Settings, changed
from freehold.process.notify import Notifier
from freehold.runtime import logs
from freehold.runtime.wiring import Runtime

log = logging.getLogger(__name__)


class Reload:
    """``reread`` resolves the settings anew; what it raises changes nothing."""

    def __init__(
        self,
        runtime: Runtime,
        reread: Callable[[], Settings],
        notifier: Notifier,
    ) -> None:
        self._runtime = runtime
        self._reread = reread
        self._notifier = notifier

    def __call__(self) -> None:
        self._notifier.reloading()
        try:
            self._take(self._reread())
        except FreeholdError as error:
            hint = f" {error.hint}" if error.hint else ""
            log.error("The settings stay as they were. %s%s", error, hint)
        self._notifier.ready()

    def _take(self, settings: Settings) -> None:
        taken, waiting = changed(self._runtime.settings, settings)
        self._runtime.take(settings)
        logs.configure(settings.log_level, settings.log_format)
        if taken:
            log.warning("Taken: %s.", ", ".join(setting.name for setting in taken))
        if waiting:
            names = ", ".join(setting.name for setting in waiting)
            log.warning("Changed, but only from the next start on: %s.", names)
        if not taken and not waiting:
            log.warning("The settings were read again; nothing has changed.")
