"""The tables of `python -m benchmarks.engines`, from its results files. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.report import medians, origin, warnings
from benchmarks.results import Results
from freehold.lab.bench.statistics import median

SPEED = "tokens_per_second"
WAYS = ("engine", "upstream")
AT_LEAST, AT_MOST_MS = 0.97, 5.0
_KINDS = {"unique": "nothing shared", "shared": "shared prefix"}


def compared(results: Results) -> str:
    """Engines side by side, and as ratios of the last."""
    lines = [origin(results), "", *_speeds(results), "", *_times(results)]
    return "\n".join([*lines, *_ending(results)])


def _names(results: Results) -> list[str]:
    found = {row["server"] for row in results.measurements}
    return [name for name in results.about["flags"] if name in found]


def _speeds(results: Results) -> list[str]:
    names, found = _names(results), medians(results)
    *others, last = names
    heads = [*names, *(f"{last} / {name.removeprefix('llama.cpp ')}" for name in others)]
    rows = [
        f"Tokens of answers a second, and how many times as many {last} gives:",
        "",
        f"| prompts | clients | {' | '.join(heads)} |",
        f"|---|--:|{'--:|' * len(heads)}",
    ]
    for workload in _workloads(results):
        kind, _, clients = workload.partition("-")
        speeds = {name: found.get((workload, name), {}).get(SPEED) for name in names}
        theirs = speeds[last]
        cells = [_number(speeds[name]) for name in names]
        cells += [_quotient(theirs, speeds[name]) for name in others]
        rows.append(f"| {_KINDS[kind]} | {clients} | {' | '.join(cells)} |")
    return rows


def _times(results: Results) -> list[str]:
    names, found = _names(results), medians(results)
    rows = [
        "Median time to the first token / for each token after it, in milliseconds:",
        "",
        f"| prompts | clients | {' | '.join(names)} |",
        f"|---|--:|{'--:|' * len(names)}",
    ]
    for workload in _workloads(results):
        kind, _, clients = workload.partition("-")
        cells = []
        for name in names:
            summary = found.get((workload, name), {})
            first, each = _number(summary.get("ttft_p50"), 0), _number(summary.get("tpot_p50"))
            cells.append(f"{first} / {each}")
        rows.append(f"| {_KINDS[kind]} | {clients} | {' | '.join(cells)} |")
    return rows


def _workloads(results: Results) -> list[str]:
    return list(dict.fromkeys(row["workload"] for row in results.measurements))


def gateway(results: Results) -> str:
    """What it costs to ask through our server, from pairs measured one after the other."""
    rows = [
        "| our server | users | vLLM tok/s | ours tok/s | ratio, median (lowest to highest) | "
        "at least | vLLM TTFT ms | added ms, median (lowest to highest) | at most | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for way in WAYS:
        for workload in _workloads(results):
            rows.append(_cost(results, way, workload))
    return "\n".join([origin(results), "", *rows, *_ending(results)])


def _cost(results: Results, way: str, workload: str) -> str:
    pairs = paired(results, workload, f"{way}: vLLM", f"{way}: ours")
    ratios = [ours[SPEED] / theirs[SPEED] for theirs, ours in pairs]
    added = [ours["ttft_p50"] - theirs["ttft_p50"] for theirs, ours in pairs]
    met = (median(ratios) or 0) >= AT_LEAST and (median(added) or 0) <= AT_MOST_MS
    cells = (
        "runs it" if way == "engine" else "has it as an upstream",
        workload,
        _number(median([theirs[SPEED] for theirs, _ in pairs])),
        _number(median([ours[SPEED] for _, ours in pairs])),
        _spread(ratios, lambda value: f"{value:.2f}"),
        f"{AT_LEAST:g}",
        _number(median([theirs["ttft_p50"] for theirs, _ in pairs]), 0),
        _spread(added, lambda value: f"{value:+.0f}"),
        f"{AT_MOST_MS:g}",
        "met" if met else "**missed**",
    )
    return f"| {' | '.join(cells)} |"


def paired(
    results: Results, workload: str, first: str, second: str
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The summaries of both, by round, of the rounds that have both."""
    found: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in results.measurements:
        if row["workload"] == workload:
            found.setdefault(row["repeat"], {})[row["server"]] = row["summary"]
    rounds = (found[number] for number in sorted(found))
    return [(each[first], each[second]) for each in rounds if {first, second} <= each.keys()]


def _spread(values: Sequence[float], told: Callable[[float], str]) -> str:
    middle = median(list(values))
    if middle is None:
        return "-"
    return f"{told(middle)} ({told(min(values))} to {told(max(values))})"


def _ending(results: Results) -> list[str]:
    flags: Mapping[str, str] = results.about["flags"]
    lines = ["", "The commands:", "", *(f"- {name}: `{flags[name]}`" for name in flags)]
    if notes := warnings(results):
        lines += ["", "What to know about these numbers:", "", *(f"- {note}" for note in notes)]
    return lines


def _quotient(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs and ours else "-"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
