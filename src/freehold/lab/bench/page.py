"""A report as one HTML page that asks nobody for anything. Pure.

Whatever a server says is text: everything is escaped, and the page forbids itself scripts and
requests besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from freehold.lab.bench.plot import Plot, Series, svg, text
from freehold.lab.bench.records import Outcome
from freehold.lab.bench.report import Report, StageResult, notes
from freehold.lab.bench.statistics import percentile
from freehold.lab.bench.workload import Kind

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --grid: #d9d9d4;
  --soft: #5a5a55; --c0: #0072b2; --c1: #b34700; --c2: #00734f; --c3: #a0417b; --c4: #6b5a00;
  --c5: #444; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececea; --paper: #161616; --grid: #3a3a38;
  --soft: #a8a8a2; --c0: #56b4e9; --c1: #f0a04b; --c2: #35c79a; --c3: #e7a3cb; --c4: #e3d26b;
  --c5: #bbb; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
figure { margin: 1rem 0; display: grid; gap: 1rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--grid); } polyline { fill: none; stroke-width: 2; }
.s0 { stroke: var(--c0); fill: var(--c0); } .s1 { stroke: var(--c1); fill: var(--c1); }
.s2 { stroke: var(--c2); fill: var(--c2); } .s3 { stroke: var(--c3); fill: var(--c3); }
.s4 { stroke: var(--c4); fill: var(--c4); } .s5 { stroke: var(--c5); fill: var(--c5); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SHARES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True)
class _Chart:
    """A plot by load. ``lines``: what each is called, and which figure it is."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


_CHARTS = (
    _Chart("Output", "tokens per second", (("output", "output_per_second"),)),
    _Chart("Prompts and output", "tokens per second", (("together", "total_per_second"),)),
    _Chart(
        "Goodput",
        "requests per second",
        (("completed", "requests_per_second"), ("within the limits", "goodput")),
    ),
    _Chart(
        "Time to first token",
        "ms",
        (("median", "ttft_ms.p50"), ("p90", "ttft_ms.p90"), ("p99", "ttft_ms.p99")),
    ),
    _Chart(
        "Time to first answer token, after the reasoning",
        "ms",
        (("median", "ttfa_ms.p50"), ("p90", "ttfa_ms.p90"), ("p99", "ttfa_ms.p99")),
    ),
    _Chart(
        "Time per output token",
        "ms",
        (("mean", "tpot_ms.mean"), ("median", "tpot_ms.p50"), ("p99", "tpot_ms.p99")),
    ),
    _Chart(
        "Gaps between pieces of an answer",
        "ms",
        (("median", "itl_ms.p50"), ("p90", "itl_ms.p90"), ("p99", "itl_ms.p99")),
    ),
)

_ACROSS = {Kind.USERS: "users at once", Kind.RATE: "arrivals per second"}
_HEADINGS = {Kind.USERS: "Users who wait for their answers", Kind.RATE: "Poisson arrivals"}


def page(report: Report) -> str:
    """The whole document."""
    title = f"{report.target.model} at {report.target.url}"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{text(title)}</h1>",
            _facts(report),
            _notes(report),
            *(part for kind in Kind for part in _of_kind(report, kind)),
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def _facts(report: Report) -> str:
    around, asked = report.surroundings, report.workload
    shared = f", {asked.shared} shared" if asked.shared else ", no two alike"
    facts = [
        ("Measured", report.made_at),
        ("Command", report.command),
        (
            "Machine" if report.target.ours else "Machine of the client",
            f"{around.processor.name}, {around.processor.cores} cores, "
            f"{around.memory / 1e9:.0f} GB, {', '.join((*around.gpus, around.system))}",
        ),
        ("Versions", ", ".join(f"{name} {number}" for name, number in around.versions.items())),
        *([("Commit", around.commit)] if around.commit else []),
        ("Prompts", f"{asked.prompt} tokens{shared}; seed {asked.seed}"),
        ("Answers", f"{asked.answer} tokens"),
        ("Discarded", f"{asked.warm_up} warm-up requests"),
        ("Repeats", f"{asked.repeats}, medians are shown"),
        *([("Limits of goodput", str(asked.limits))] if asked.limits.given else []),
        *([("Roofline", report.roofline)] if report.roofline else []),
    ]
    rows = (f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts)
    return f"<dl>{''.join(rows)}</dl>"


def _notes(report: Report) -> str:
    found = notes(report)
    if not found:
        return ""
    return f"<h2>To know</h2><ul>{''.join(f'<li>{text(note)}</li>' for note in found)}</ul>"


def _of_kind(report: Report, kind: Kind) -> Iterable[str]:
    stages = [each for each in report.stages if each.stage.kind is kind]
    if not stages:
        return
    yield f"<h2>{text(_HEADINGS[kind])}</h2>"
    yield _outcomes(stages)
    for number, chart in enumerate(_CHARTS):
        if any(each.median(name) is not None for each in stages for _, name in chart.lines[-1:]):
            yield _by_load(chart, stages, kind, f"{kind}-{number}")
    yield _distribution(stages, f"{kind}-first")


def _outcomes(stages: Sequence[StageResult]) -> str:
    rows = [
        [
            each.stage.title,
            *(
                str(sum(record.outcome is outcome for record in each.records))
                for outcome in Outcome
            ),
            _spread(each, "output_per_second"),
        ]
        for each in stages
    ]
    headings = ["load", *Outcome, "output tok/s, lowest to highest"]
    return _table("What became of the requests", headings, rows)


def _by_load(chart: _Chart, stages: Sequence[StageResult], kind: Kind, name: str) -> str:
    series = tuple(
        Series(
            words,
            tuple(
                (float(place), value)
                for place, each in enumerate(stages)
                if (value := each.median(figure)) is not None
            ),
        )
        for words, figure in chart.lines
    )
    plot = Plot(
        chart.title,
        f"{chart.title} in {chart.unit}, by {_ACROSS[kind]}. The table beside it has the numbers.",
        _ACROSS[kind],
        f"{chart.title}, {chart.unit}",
        series,
        tuple((float(place), f"{each.stage.level:g}") for place, each in enumerate(stages)),
    )
    rows = [
        [each.stage.title, *(_number(each.median(figure)) for _, figure in chart.lines)]
        for each in stages
    ]
    headings = ["load", *(words for words, _ in chart.lines)]
    return _figure(svg(plot, name), _table(f"{chart.title}, {chart.unit}", headings, rows))


def _distribution(stages: Sequence[StageResult], name: str) -> str:
    """How many of the requests had their first token by when."""
    series, rows = [], []
    for each in stages:
        times = sorted(
            record.ttft_ms
            for record in each.records
            if record.outcome is Outcome.COMPLETED and record.ttft_ms is not None
        )
        if not times:
            continue
        points = ((time, 100 * (place + 1) / len(times)) for place, time in enumerate(times))
        series.append(Series(each.stage.title, ((times[0], 0.0), *points), marked=False))
        rows.append([each.stage.title, *(_number(percentile(times, share)) for share in _SHARES)])
    if not series:
        return ""
    plot = Plot(
        "Requests that have their first token",
        "The share of completed requests whose first token had come by then, a line for each load.",
        "ms since the request was sent",
        "% of completed requests",
        tuple(series),
    )
    headings = ["load", *(f"{share} %" for share in _SHARES)]
    return _figure(svg(plot, name), _table("Milliseconds until so many have it", headings, rows))


def _figure(drawn: str, table: str) -> str:
    return f"<figure>{drawn}{table}</figure>"


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{text(word)}</th>' for word in headings)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _spread(each: StageResult, figure: str) -> str:
    found = each.middles.get(figure)
    return "-" if found is None else f"{_number(found.low)} to {_number(found.high)}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
