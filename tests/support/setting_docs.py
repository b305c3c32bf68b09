"""The tables of docs/configuration.md, made from the settings' own descriptions.

`python -m tests.support.setting_docs` writes them into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from freehold.domain.setting_table import SETTINGS, Group
from freehold.domain.settings import default_of

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
_HEAD = "| setting | variable | default | what it is, and why that default |\n|---|---|---|---|\n"


def table(group: Group) -> str:
    rows = []
    for setting in (setting for setting in SETTINGS if setting.group is group):
        default = default_of(setting)
        # What the default does is told in words; what it is, as one would write it.
        if setting.default is None and default not in ("none", "true", "false"):
            default = default if default.isdigit() else f"`{default}`"
        what = f"{setting.what} Taken on SIGHUP." if setting.live else setting.what
        rows.append(f"| `{setting.name}` | `{setting.variable}` | {default} | {what} |\n")
    return _HEAD + "".join(rows)


def written(page: str) -> str:
    """``page`` with the table under each group's heading as it should be."""
    for group in Group:
        section = re.compile(rf"(^### {re.escape(group)}\n\n)(?:\|.*\n)*", re.MULTILINE)
        found = section.search(page)
        assert found is not None, f"{PAGE.name} has no heading for {group}"
        page = page[: found.end(1)] + table(group) + page[found.end() :]
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
