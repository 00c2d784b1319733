"""What every test may ask for, and the rules of a run: which database, and whether a skip is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import pytest
from django.test import TransactionTestCase

from tests.servers import NEW_DATABASE_URL

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

REQUIRE_ALL = os.environ.get("KABAR_REQUIRE_ALL") == "1"
# A test that asks for one of these, itself or through another fixture, or is so marked, touches the database.
DATABASE_FIXTURES = {"db", "transactional_db", "live_server", "django_db_setup", "new_database_url"}
DATABASE_MARKERS = ("django_db", "sqlite_only", "postgresql_only")
END_TO_END = Path(__file__).parent / "e2e"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def new_database_url(pytestconfig: pytest.Config) -> Callable[[], str]:
    """Return a function that makes an empty database of the session's kind, for processes of a test's own."""
    return pytestconfig.stash[NEW_DATABASE_URL]


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Return the path of the system's Chromium, or skip."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return Path(path)
    pytest.skip("no Chromium on PATH; `apt install chromium` brings one")


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("tx"):
        return "databases: as each worker is told"
    return f"database: {config.getoption('database')}, part: {config.getoption('part')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to the other database or to another part; tests without any run on SQLite alone."""
    database: str = config.getoption("database")
    part: str = config.getoption("part")
    parts = {"database", "e2e", "rest"} if part == "all" else {part}
    if database == "postgresql":
        parts -= {"rest"}
    kept = [item for item in items if _is_for(item, database) and _part_of(item) in parts]
    if left_out := [item for item in items if item not in set(kept)]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _is_for(item: pytest.Item, database: str) -> bool:
    others = ["postgresql_only"] if database == "sqlite" else ["sqlite_only", "on_any_database"]
    return not any(item.get_closest_marker(each) for each in others)


def _part_of(item: pytest.Item) -> str:
    cls = getattr(item, "cls", None)
    touches_the_database = (
        any(item.get_closest_marker(name) for name in DATABASE_MARKERS)
        or not DATABASE_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
        or (cls is not None and issubclass(cls, TransactionTestCase))
    )
    if not touches_the_database:
        return "rest"
    return "e2e" if END_TO_END in item.path.parents else "database"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not item.get_closest_marker("where_node_is"):  # .ci/run brings all else
        report = _refuse_skip(report)
    # What a test printed or logged may hold what no pipe between pytest's processes takes: half a surrogate pair.
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    if report.failed:
        report.sections.append(("Database", item.config.getoption("database")))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report: Report) -> Report:
    """Turn a skip into a failure where KABAR_REQUIRE_ALL=1 says that everything must have run."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"KABAR_REQUIRE_ALL=1 lets nothing be left out, and this was: {reason}"
    return report
