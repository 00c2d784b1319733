"""The report: one HTML file with its style and charts inside, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from django.template import Context, Engine

from .findings import find_findings
from .profile import TYPED_SHARE, Profile
from .readings import MISSING_MARKERS
from .sections import ColumnView, Fact, SectionView, view_column, view_section
from .wording import say_count, say_share, say_size, say_value

TEMPLATES = Path(__file__).parent / "templates"


def render_report(profile: Profile, file_name: str, *, on_column: Callable[[], None] | None = None) -> str:
    """Make the page.

    Args:
        profile: what to show.
        file_name: the file's own, as its user knows it.
        on_column: called before each column is drawn; what it raises ends the drawing.
    """
    heads: list[ColumnView] = []
    sections: list[SectionView] = []
    for column in profile.columns:
        if on_column:
            on_column()
        head = view_column(column, profile)
        heads.append(head)
        if head.has_section:
            sections.append(view_section(column, head, profile))
    cells = profile.rows * len(profile.columns)
    missing = sum(column.missing for column in profile.columns)
    page = _engine().get_template("report.html")
    return page.render(
        # use_l10n and use_tz are off: all figures are words by now, and no settings are needed.
        Context(
            {
                "file_name": say_value(file_name, 200),
                "figures": (
                    Fact(name="rows", value=say_count(profile.rows)),
                    Fact(name="columns", value=say_count(len(profile.columns))),
                    Fact(name="cells missing", value=say_share(missing, cells)),
                    Fact(name="size", value=say_size(profile.size_bytes)),
                ),
                "findings": find_findings(profile),
                "warnings": profile.warnings,
                "reading": _reading(profile),
                "heads": heads,
                "sections": sections,
                "left_out": say_count(len(heads) - len(sections)) if len(heads) > len(sections) else "",
                "methods": _methods(profile),
            },
            use_l10n=False,
            use_tz=False,
        )
    )


@cache
def _engine() -> Engine:
    return Engine(dirs=[str(TEMPLATES)], autoescape=True)


def _reading(profile: Profile) -> tuple[Fact, ...]:
    return (
        Fact(name="Encoding", value=profile.encoding.label),
        Fact(name="Delimiter", value=profile.dialect.label),
        Fact(name="Header", value="the first row" if profile.has_header else "none found; columns are numbered"),
    )


def _methods(profile: Profile) -> tuple[str, ...]:
    markers = " ".join(marker for marker in MISSING_MARKERS if marker)
    lines = [
        "Spaces around a value are ignored. Missing is an empty cell or one of these, in capitals or not: " + markers,
        f"A column has a type if at least {TYPED_SHARE:.0%} of its values are of it; the rest are told as exceptions. "
        "Numbers with leading zeros are codes, and text. Times without a zone are taken as UTC.",
    ]
    sketched = [column for column in profile.columns if column.distinct_error]
    if not sketched:
        lines.append("Every figure is exact.")
        return tuple(lines)
    error = max(column.distinct_error for column in sketched)
    lines.append(
        f"Up to {profile.exact_limit:,} different values a column is described exactly. Past that, counts of different "
        f"values (≈) are within {error:.1%} at 95% confidence (HyperLogLog), and a count of a frequent value (≥) may "
        f"be too low by up to {max(column.top.max_error for column in sketched):,} (lossy counting)."
    )
    ranks = [each.rank_error for column in sketched for each in (column.numbers, column.dates) if each]
    if ranks:
        lines.append(
            f"Their quantiles, histograms and outliers are within {max(ranks):.1%} of rank at 99% confidence (KLL "
            "sketch). Rows, missing values, least, greatest, mean and standard deviation are always exact."
        )
    return tuple(lines)
