"""The kind `csv.report` itself: the profile, the page and the summary, as a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.context import Context
from jobs.failures import JobFailure
from jobs.kinds import kind

from .params import CsvReportParams
from .unreadable import UnreadableCsvError

if TYPE_CHECKING:
    from .profile import Profile
    from .profiler import Stage

CHECKED_PERCENT = 3.0
READ_PERCENT = 92.0
DRAWN_PERCENT = 97.0


@kind(
    "csv.report",
    params=CsvReportParams,
    title="CSV report",
    description="Read any CSV file and make a report of it: what each column holds, in figures and charts.",
    timeout=600,
    max_attempts=3,
)
def csv_report(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """Profile the file, attach the report, return the summary."""
    # NumPy and the sketches cost 20 MB and half a second: only the process that does the work loads them.
    from .report import render_report
    from .summary import summarise

    name = params["file"].name
    profile = _profile(context, params)
    _log_findings(context, profile)
    context.progress(READ_PERCENT, "Drawing charts")
    page = render_report(profile, name, on_column=context.check_cancelled)
    context.progress(DRAWN_PERCENT, "Writing the report")
    context.attach("report.html", page.encode(), "text/html; charset=utf-8", main=True)
    return summarise(profile)


def _profile(context: Context, params: dict[str, Any]) -> Profile:
    from .profiler import Stage, profile_csv

    size = params["file"].size or 1

    def report(stage: Stage, done: int) -> None:
        if stage is Stage.CHECKING:
            context.progress(min(CHECKED_PERCENT, CHECKED_PERCENT * done / size), stage.value)
        else:
            percent = CHECKED_PERCENT + (READ_PERCENT - CHECKED_PERCENT) * min(done / size, 1)
            context.progress(percent, stage.value, current=done, total=size)

    try:
        with params["file"].open() as stream:
            return profile_csv(
                stream,
                delimiter=params.get("delimiter") or None,
                encoding=params.get("encoding") or None,
                on_progress=report,
            )
    except UnreadableCsvError as error:
        raise JobFailure(error.code, error.message) from error


def _log_findings(context: Context, profile: Profile) -> None:
    header = "with a header" if profile.has_header else "without a header"
    context.log(f"Read as {profile.encoding.label}, delimiter {profile.dialect.label}, {header}")
    context.log(f"{profile.rows:,} rows, {len(profile.columns):,} columns")
    for warning in profile.warnings:
        context.log(warning, level="warning")
