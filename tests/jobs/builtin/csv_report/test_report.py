"""The page and the JSON: whole, safe to show, bounded."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.builtin.csv_report.profiler import profile_csv
from jobs.builtin.csv_report.report import render_report
from jobs.builtin.csv_report.summary import summarise
from jobs.builtin.csv_report.wording import say_about, say_number, say_share, say_short, say_size, say_value

DATA = Path(__file__).resolve().parents[4] / "jobs" / "builtin" / "sample"
VOID = {"meta", "link", "img", "br", "hr", "input"}
SAFE_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "div", "span", "p"),
    *("h1", "h2", "ul", "li", "dl", "dt", "dd", "a", "bdi", "figure", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "g", "desc", "rect", "line", "path", "text"),
}
HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7|add:7 }}{% now %}",
    "\u202etxt.exe",
    "line\nbreak\tand \x07 bell",
    "=cmd|' /C calc'!A0",
    "&lt;b&gt;",
]


class Page(HTMLParser):
    """Collects what a browser would make of the page, and insists that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(content: bytes, name: str = "table.csv") -> str:
    return render_report(profile_csv(io.BytesIO(content)), name)


def assert_is_safe(page: Page) -> None:
    assert set(page.tags) <= SAFE_TAGS
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "xlink:href", "action", "style")
        assert name != "href" or re.fullmatch(r"#c\d+", value)


def test_the_report_of_a_real_file_is_one_page_on_its_own() -> None:
    page = page_of((DATA / "birdstrikes.csv").read_bytes(), "birdstrikes.csv")
    parsed = Page(page)
    assert_is_safe(parsed)
    assert not re.search(r"url\(|@import|https?:", page)
    assert parsed.tags.count("h1") == 1
    assert parsed.text.count("10,000") > 3
    assert "lacks a value in 28% of the rows" in parsed.text
    assert "Every figure is exact." in parsed.text


def test_every_chart_is_told_in_words_and_ids_are_unique() -> None:
    page = Page(page_of((DATA / "seattle-weather.csv").read_bytes()))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    labels = [value.split() for name, value in page.attributes if name == "aria-labelledby"]
    assert len(labels) == 5
    assert all(set(pair) <= set(ids) for pair in labels)
    assert page.tags.count("svg") == len(labels) + sum(pair == ("aria-hidden", "true") for pair in page.attributes)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_and_values_stay_text(hostile: str) -> None:
    quoted = '"' + hostile.replace('"', '""') + '"'
    content = f"{quoted},n\n{quoted},1\n{quoted},2\n" + f"{quoted},3\n" * 200 + f"x,{quoted}\n"
    page = Page(page_of(content.encode(), name=hostile))
    assert_is_safe(page)
    assert say_value(hostile) in page.text
    assert "\x07" not in page.text


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), min_size=1, max_size=6))
def test_no_text_makes_markup(rows: list[list[str]]) -> None:
    clean = [[re.sub("[\0\ud800-\udfff]", "", cell).replace('"', "'") for cell in row] for row in rows]
    content = "\n".join(",".join(f'"{cell}"' for cell in row) for row in clean)
    found = profile_csv(io.BytesIO(content.encode()), delimiter=",")
    assert_is_safe(Page(render_report(found, "x")))
    json.dumps(summarise(found), allow_nan=False)


def test_an_empty_table_has_a_report() -> None:
    page = Page(page_of(b"a,b\n"))
    assert "The file has a header and no rows." in page.text
    assert page.tags.count("section") >= 5


def test_exceptions_outliers_and_warnings_are_in_the_report() -> None:
    rows = "".join(f"{index % 30},{index}\n" for index in range(400))
    page = Page(page_of(f"a,b\n{rows}9999,x\n1\n".encode()))
    assert "1 outlier, more than 1.5 times the interquartile range" in page.text
    assert "1 value is of another type: “x”." in page.text
    assert "Row 402 has fewer than 2 cells" in page.text


def test_the_summary_is_json_with_the_figures_of_each_column() -> None:
    summary = summarise(profile_csv(io.BytesIO((DATA / "seattle-weather.csv").read_bytes())))
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text)["rows"] == 1461
    assert (summary["encoding"], summary["delimiter"], summary["cut"]) == ("UTF-8", ",", False)
    date, rain = summary["columns"][:2]
    assert (date["min"], date["max"], date["type"]) == ("2012-01-01", "2015-12-31", "date")
    assert rain["quantiles"]["p50"] == 0
    assert rain["top"][0] == {"value": "0.0", "count": 838}


def test_the_summary_of_a_wide_file_is_cut_and_says_so() -> None:
    names = ",".join(f"{'long name ' * 15}{index}" for index in range(4000))
    found = profile_csv(io.BytesIO(f"{names}\n{','.join('12345' for _ in range(4000))}\n".encode()), header=True)
    summary = summarise(found)
    assert len(json.dumps(summary)) < 200_000
    assert summary["cut"]
    assert summary["columnCount"] == 4000
    assert len(summary["columns"]) + summary["columnsOmitted"] == 4000
    assert "quantiles" in summary["columns"][0]
    assert "quantiles" not in summary["columns"][-1]


def test_figures_in_words() -> None:
    assert [say_number(each) for each in (0, -1234567, 3.14159, 0.00012346, 12345.678, 1.5e16, None)] == [
        "0",
        "\u22121,234,567",
        "3.142",
        "0.0001235",
        "12,346",
        "1.5e16",
        "beyond range",
    ]
    assert [say_about(each) for each in (164_686, 1_640_000, 987)] == ["165,000", "1,640,000", "987"]
    assert [say_short(each) for each in (950, 12_000, 1_500_000)] == ["950", "12k", "1.5M"]
    assert [say_share(part, 10_000) for part in (0, 1, 9, 250, 2836, 9999, 10_000)] == [
        "0%",
        "<0.1%",
        "<0.1%",
        "2.5%",
        "28%",
        ">99.9%",
        "100%",
    ]
    assert [say_size(each) for each in (17, 48_219, 337_079, 1_223_329, 10**9)] == [
        "17 bytes",
        "48.2 kB",
        "337 kB",
        "1.2 MB",
        "1.0 GB",
    ]
