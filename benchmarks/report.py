"""The tables of `docs/benchmarks.md`, from a results file. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Results
from freehold.lab.bench.statistics import median

BEST = "best"
LOWER_IS_BETTER = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "tpot_p50", "tpot_p99")


@dataclass(frozen=True)
class Wanted:
    """A line of the table: in ``workload`` ours is ``at_least`` times as good as ``against``."""

    what: str
    workload: str
    against: str
    metric: str
    at_least: float


_SPEED = "tokens_per_second"
WANTED = (
    *(
        Wanted(f"unique, {clients}: output tok/s", f"unique-{clients}", BEST, _SPEED, 1.0)
        for clients in (1, 8, 16)
    ),
    *(
        Wanted(f"unique, {clients}: ITL p99", f"unique-{clients}", BEST, "itl_p99", 2.0)
        for clients in (1, 8, 16)
    ),
    Wanted("unique, 16: output tok/s", "unique-16", "llama-server", _SPEED, 1.3),
    Wanted("chat, 8: output tok/s", "chat", BEST, _SPEED, 1.2),
    Wanted("chat, 8: output tok/s", "chat", "llama-server", _SPEED, 1.7),
    Wanted("shared, 8: output tok/s", "shared", BEST, _SPEED, 2.5),
    Wanted("shared, 8: TTFT p99", "shared", BEST, "ttft_p99", 4.0),
    Wanted("shared, 8: ITL p99", "shared", BEST, "itl_p99", 10.0),
    Wanted("long arrival: ITL p99 of the seven", "long", BEST, "itl_p99", 5.0),
    Wanted("copy, 1: output tok/s", "copy", BEST, _SPEED, 1.5),
    Wanted("unique, 8: output tok/s", "unique-8", "llama-cpp-python", _SPEED, 3.0),
    Wanted("chat, 8: output tok/s", "chat", "llama-cpp-python", _SPEED, 3.0),
    Wanted("shared, 8: output tok/s", "shared", "llama-cpp-python", _SPEED, 3.0),
)
DECODE_AT_LEAST = 0.97
OUTSIDE_AT_MOST = {"greedy": 0.03, "sampled": 0.03, "schema": 0.08}
# llama.cpp's threads wait by spinning: a little company costs much more than its share.
OTHERS_AT_MOST = 0.05

_COLUMNS = (
    ("output tok/s", _SPEED),
    ("TTFT p50", "ttft_p50"),
    ("TTFT p99", "ttft_p99"),
    ("ITL p50", "itl_p50"),
    ("ITL p99", "itl_p99"),
    ("TPOT p50", "tpot_p50"),
    ("TPOT p99", "tpot_p99"),
    ("peak MB", "peak_memory_mb"),
)


def render(results: Results) -> str:
    """Everything between the markers."""
    about = results.about
    best = results.best or "not screened"
    lines = [
        f"{origin(results)} The best flags of llama-server: **{best}**.",
        "",
        *_wanted_table(results),
        "",
        *_all_table(results),
        "",
        *_screening_table(results),
        "",
        "The commands:",
        "",
        *(f"- {name}: `{flags}`" for name, flags in _commands(results).items()),
        f"- llama.cpp's build: `{' '.join(about['build'])}`",
    ]
    notes = warnings(results)
    if notes:
        lines += ["", "What to know about these numbers:", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines)


def origin(results: Results) -> str:
    """When, where and with what it was measured."""
    about = results.about
    machine = about["machine"]
    return (
        f"Measured {about['date']} at commit {about['commit']} on {machine['processor']}, "
        f"{machine['cores']} cores ({', '.join(machine['features']) or 'no vector extensions'}), "
        f"{machine['memory_gb']} GB, {machine['system']}; "
        + ", ".join(f"{name} {value}" for name, value in about["versions"].items())
        + f"; model `{about['model']}` (SHA-256 `{about['sha256'][:16]}…`); "
        f"medians of {about['repeats']} repeats."
    )


def _commands(results: Results) -> dict[str, str]:
    """How each server was started that was measured."""
    measured = {row["server"] for row in (*results.measurements, *results.screening)}
    if results.batched:
        measured.add("llama-batched-bench")
    flags: Mapping[str, str] = results.about["flags"]
    return {name: command for name, command in flags.items() if name in measured}


def medians(results: Results) -> dict[tuple[str, str], dict[str, float | None]]:
    """For each workload and server the median of every number over the repeats."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in results.measurements:
        grouped.setdefault((row["workload"], row["server"]), []).append(row["summary"])
    return {
        key: {name: median([summary[name] for summary in summaries]) for name in summaries[0]}
        for key, summaries in grouped.items()
    }


def ratio(metric: str, ours: float | None, theirs: float | None) -> float | None:
    """How many times as good ours is."""
    if metric in LOWER_IS_BETTER:
        ours, theirs = theirs, ours
    return ours / theirs if ours is not None and theirs else None


def _wanted_table(results: Results) -> list[str]:
    found = medians(results)
    rows = [
        "| what | against | ours | theirs | ratio | at least | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for wanted in WANTED:
        against = results.best if wanted.against == BEST else wanted.against
        ours = found.get((wanted.workload, "ours"), {}).get(wanted.metric)
        theirs = found.get((wanted.workload, against or ""), {}).get(wanted.metric)
        times = ratio(wanted.metric, ours, theirs)
        rows.append(
            _wanted_row(wanted.what, against or "best", ours, theirs, times, wanted.at_least)
        )
    kinds = _engine_medians(results)
    ours = kinds.get("greedy", {}).get(_SPEED)
    theirs = median([row["bench"] for row in results.batched])
    times = ratio(_SPEED, ours, theirs)
    rows.append(
        _wanted_row(
            "decode at 16 sequences: tok/s",
            "llama-batched-bench",
            *(ours, theirs, times, DECODE_AT_LEAST),
        )
    )
    return [*rows, *_outside_table(kinds)]


def _engine_medians(results: Results) -> dict[str, dict[str, float | None]]:
    """The engine at 16 sequences, without a server: by kind of request."""
    kinds = results.batched[0]["engine"] if results.batched else {}
    return {
        kind: {
            name: median([row["engine"][kind][name] for row in results.batched])
            for name in (_SPEED, "outside")
        }
        for kind in kinds
    }


def _outside_table(kinds: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    if not kinds:
        return []
    rows = [
        "",
        "The engine at 16 sequences, and what of its time is spent outside `llama_decode`:",
        "",
        "| requests | tok/s | outside | at most | |",
        "|---|--:|--:|--:|---|",
    ]
    for kind, found in kinds.items():
        outside, most = found["outside"] or 0.0, OUTSIDE_AT_MOST[kind]
        verdict = "met" if outside <= most else "**missed**"
        rows.append(
            f"| {kind} | {_number(found[_SPEED])} | {outside:.1%} | {most:.0%} | {verdict} |"
        )
    return rows


def _wanted_row(
    what: str,
    against: str,
    ours: float | None,
    theirs: float | None,
    times: float | None,
    at_least: float,
) -> str:
    verdict = "not measured" if times is None else "met" if times >= at_least else "**missed**"
    cells = (_number(ours), _number(theirs), _number(times, 2), f"{at_least:g}", verdict)
    return f"| {what} | {against} | {' | '.join(cells)} |"


def _all_table(results: Results) -> list[str]:
    rows = [
        "Times in milliseconds:",
        "",
        f"| workload | server | {' | '.join(title for title, _ in _COLUMNS)} |",
        f"|---|---|{'--:|' * len(_COLUMNS)}",
    ]
    for (workload, server), numbers in sorted(medians(results).items(), key=lambda item: item[0]):
        cells = " | ".join(_number(numbers[name]) for _, name in _COLUMNS)
        rows.append(f"| {workload} | {server} | {cells} |")
    return rows


def _screening_table(results: Results) -> list[str]:
    if not results.screening:
        return []
    workloads = list(dict.fromkeys(row["workload"] for row in results.screening))
    speeds = {(row["server"], row["workload"]): row["summary"][_SPEED] for row in results.screening}
    rows = [
        "The screening of llama-server's flags, one pass, output tok/s:",
        "",
        f"| flags | {' | '.join(workloads)} |",
        f"|---|{'--:|' * len(workloads)}",
    ]
    for server in dict.fromkeys(row["server"] for row in results.screening):
        cells = " | ".join(_number(speeds.get((server, workload))) for workload in workloads)
        rows.append(f"| {server} | {cells} |")
    return rows


def warnings(results: Results) -> list[str]:
    """What makes a comparison less than fair, found in the records themselves."""
    notes = []
    prompts: dict[tuple[str, int], dict[str, Sequence[int]]] = {}
    for row in results.measurements:
        short = row["summary"]["cut_short"]
        if short:
            notes.append(
                f"{row['workload']}, {row['server']}, repeat {row['repeat']}: {short} answers were "
                "not as long as asked for."
            )
        others = row["summary"]["others"]
        if others > OTHERS_AT_MOST:
            notes.append(
                f"{row['workload']}, {row['server']}, repeat {row['repeat']}: other programs took "
                f"{others:.0%} of the processors meanwhile."
            )
        counts = sorted(record["in"] for record in row["requests"] if record["in"] is not None)
        if counts and row["workload"] != "chat":  # its later turns hold each server's own answers
            prompts.setdefault((row["workload"], row["repeat"]), {})[row["server"]] = counts
    for (workload, repeat), by_server in prompts.items():
        if len({tuple(counts) for counts in by_server.values()}) > 1:
            seen = ", ".join(f"{server} {sum(counts)}" for server, counts in by_server.items())
            notes.append(f"{workload}, repeat {repeat}: the prompts' tokens differ: {seen}.")
    return notes


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if abs(value) >= 1000 else 1
    return f"{value:,.{digits}f}"


def insert(document: str, kind: str, text: str) -> str:
    """``document`` with ``text`` between the markers of ``kind``."""
    begin, end = f"<!-- {kind}: begin -->", f"<!-- {kind}: end -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the markers of {kind} are not there")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
