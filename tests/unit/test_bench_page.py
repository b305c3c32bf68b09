"""The page a report becomes: whole, self-contained, and safe from what servers call themselves."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.lab.bench.page import page
from freehold.lab.bench.plot import Plot, Series, round_steps, svg
from freehold.lab.bench.records import Limits, Outcome, Record
from freehold.lab.bench.report import Ending, Report, Run, StageResult, Surroundings, Target, notes
from freehold.lab.bench.summary import middles, summarise
from freehold.lab.bench.watch import Client
from freehold.lab.bench.workload import Kind, Stage, Workload
from freehold.machine.computer import Processor

LIMITS = Limits(ttft_ms=500.0)
HOSTILE = "</title><script src=\"http://evil.example/x.js\">alert('1')</script>\x1b[31m\ud800"


def completed(number: int, ttft: float, cached: int = 0, prompt: int = 256) -> Record:
    return Record(
        number=number,
        outcome=Outcome.COMPLETED,
        sent_s=float(number),
        ended_s=number + 1.0,
        wanted_tokens=3,
        ttft_ms=ttft,
        ttfa_ms=ttft + 10,
        reasoned=True,
        gaps_ms=(20.0, 30.0),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=3,
    )


def failed(number: int, error: str) -> Record:
    return Record(
        number=number,
        outcome=Outcome.FAILED,
        sent_s=float(number),
        ended_s=number + 0.5,
        wanted_tokens=3,
        error=error,
    )


def stage(kind: Kind, level: float, *records: Record, late: float = 1.0) -> StageResult:
    run = Run(summarise(records, LIMITS), 1, Client(0.01, late), records)
    return StageResult(Stage(kind, level, len(records)), (run,), middles([run.summary]))


def report(*stages: StageResult, model: str = "tiny", ending: Ending = Ending.COMPLETE) -> Report:
    return Report(
        made_at="2026-01-01T00:00:00+00:00",
        command="freehold bench http://127.0.0.1:1",
        target=Target("http://127.0.0.1:1/v1", model, ours=False),
        surroundings=Surroundings(
            "Linux", Processor("a processor", "x86_64", 2), 8 * 10**9, (), {"freehold": "1"}, None
        ),
        workload=Workload(users=(1, 2), rates=(1.0,), seed=7, limits=LIMITS),
        overhead=30,
        exact_prompts=True,
        remarks=(),
        stages=stages,
        ending=ending,
    )


FULL = report(
    stage(Kind.USERS, 1, completed(0, 100.0), completed(1, 300.0)),
    stage(Kind.USERS, 2, completed(0, 700.0), failed(1, "It died.")),
    stage(Kind.RATE, 1.0, completed(0, 200.0)),
)


def document(found: str) -> ElementTree.Element:
    """As XML: what is not well-formed raises."""
    return ElementTree.fromstring(found.removeprefix("<!DOCTYPE html>"))  # noqa: S314 - ours


class Tags(HTMLParser):
    def __init__(self, found: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(found)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def test_the_page_is_well_formed_and_asks_nobody() -> None:
    found = page(FULL)
    document(found)
    tags = Tags(found)
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(tags.names)
    assert not {"src", "href", "xlink:href", "style"} & {name for name, _ in tags.attributes}
    assert not any(name.startswith("on") for name, _ in tags.attributes)
    assert "url(" not in found
    assert "@import" not in found
    assert "default-src 'none'" in found


def test_every_plot_is_named_described_and_has_its_numbers_in_a_table() -> None:
    root = document(page(FULL))
    figures = list(root.iter("figure"))
    # By users output, both, goodput, TTFT, TTFA, TPOT, gaps and who had a token when; by rate too.
    assert len(figures) == 16
    for figure in figures:
        drawn = figure.find("svg")
        assert drawn is not None
        assert drawn.get("role") == "img"
        labels = (drawn.get("aria-labelledby") or "").split()
        named = {each.get("id"): each.text for each in (drawn[0], drawn[1])}
        assert [bool(named[label]) for label in labels] == [True, True]
        assert figure.find("div/table/caption") is not None
        assert len(figure.findall("div/table/tbody/tr")) >= 1
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))


def test_the_numbers_are_those_of_the_report() -> None:
    root = document(page(FULL))
    captions = {
        caption.text: ["".join(cell.itertext()) for cell in table.iter("td")]
        for table in root.iter("table")
        if (caption := table.find("caption")) is not None
    }
    assert captions["Time to first token, ms"] == ["200", "200", "200"]  # the last, by rate
    first = next(iter(root.iter("figure")))
    assert next(cell.text for cell in first.iter("td")) == "3"  # 6 tokens in 2 seconds


def test_hostile_names_are_text() -> None:
    hostile = report(stage(Kind.USERS, 1, completed(0, 1.0), failed(1, HOSTILE)), model=HOSTILE)
    found = page(hostile)
    found.encode()  # a lone surrogate could not be written
    root = document(found)
    assert "script" not in Tags(found).names
    assert "\x1b" not in found
    title = root.find("head/title")
    assert title is not None
    assert title.text is not None
    assert title.text.startswith("</title><script")


@given(st.text(max_size=60))
def test_no_text_breaks_the_page(name: str) -> None:
    document(page(msgspec.structs.replace(FULL, target=Target("http://a/v1", name, ours=True))))


def test_a_run_without_answers_still_makes_a_page() -> None:
    document(page(report(stage(Kind.USERS, 1, failed(0, "It died.")))))
    document(page(report(ending=Ending.INTERRUPTED)))


def test_a_report_is_read_back_as_it_was() -> None:
    assert msgspec.json.decode(FULL.encoded(), type=Report) == FULL


# Plots


@given(st.floats(1e-6, 1e12))
def test_axes_are_round_and_reach_far_enough(top: float) -> None:
    steps = round_steps(top)
    assert steps[0] == 0
    assert steps[-1] >= top * (1 - 1e-6)
    assert steps[-1] <= 2.6 * top
    assert 2 <= len(steps) <= 8


@pytest.mark.parametrize("top", [0.0, -1.0, float("nan"), float("inf")])
def test_an_axis_of_nothing(top: float) -> None:
    assert round_steps(top) == (0.0, 1.0)


POINTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e9)), min_size=1, max_size=9)


@given(POINTS)
def test_everything_is_drawn_within_the_picture(points: list[tuple[float, float]]) -> None:
    drawn = svg(Plot("t", "d", "x", "y", (Series("s", tuple(points)),)), "p")
    for each in ElementTree.fromstring(drawn).iter("polyline"):  # noqa: S314 - ours
        for pair in (each.get("points") or "").split():
            x, y = map(float, pair.split(","))
            assert -0.1 <= x <= 640.1
            assert -0.1 <= y <= 340.1


# What a reader should know


def test_a_good_run_needs_no_remarks() -> None:
    assert notes(report(stage(Kind.USERS, 1, completed(0, 1.0)))) == ()


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ((completed(0, 1.0, prompt=250),), r"Prompts were 250 to 250 tokens long, not 256"),
        ((completed(0, 1.0, cached=200),), r"66% of the prompts' tokens were in a cache"),
        ((completed(0, 1.0), failed(1, "It died.")), r"1 of 2 requests: It died\."),
    ],
)
def test_what_makes_figures_mean_less_is_told(records: tuple[Record, ...], said: str) -> None:
    (note,) = notes(report(stage(Kind.USERS, 1, *records)))
    assert re.search(said, note)


def test_a_shorter_answer_a_late_client_and_a_lost_server_are_told() -> None:
    short = msgspec.structs.replace(completed(0, 1.0), completion_tokens=1)
    found = notes(report(stage(Kind.USERS, 1, short, late=300.0), ending=Ending.SERVER_GONE))
    assert any("1 of 1 answers ended before" in note for note in found)
    assert any("300 ms late" in note for note in found)
    assert any("gone" in note for note in found)


def arriving(*seconds: float) -> StageResult:
    """A stage of arrivals, one a second, that took so long to be answered."""
    return stage(
        Kind.RATE,
        1.0,
        *(
            msgspec.structs.replace(completed(number, 1.0), ended_s=number + each)
            for number, each in enumerate(seconds)
        ),
    )


def test_a_server_that_falls_behind_is_told() -> None:
    (note,) = notes(report(arriving(*(1.0 + number / 2 for number in range(12)))))
    assert "More came than the server completed" in note
    assert notes(report(arriving(*(1.0 + number / 50 for number in range(12))))) == ()
    assert notes(report(arriving(1.0, 9.0))) == ()  # too few to tell
