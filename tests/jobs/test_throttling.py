"""Rates and quotas: what a user may do how often, what is said of it, and that a Redis that hangs holds nobody up."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from jobs import lifecycle, tally
from jobs.api import throttling
from jobs.api.throttling import standing_of
from jobs.lifecycle import Outcome
from jobs.models import Job
from jobs.rates import InvalidRate, Rate
from tests.factories import claimed_job, new_job, new_user
from tests.jobs.api_client import Caller, check_problem
from tests.jobs.counting import own_counts, silent_redis, without_redis

if TYPE_CHECKING:
    from pytest_django import DjangoAssertNumQueries, Settings

__all__ = ["own_counts"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_counts")]

POLICY = '"{}";q={};w={}'
STANDING = re.compile(r'"(read|submit)";r=(\d+);t=(\d+)')


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stand still in the middle of a window; the test moves the time."""
    now = [1_000_000.0]
    monkeypatch.setattr(throttling, "time", SimpleNamespace(time=lambda: now[0]))
    return now


def left(response: object) -> int:
    match = STANDING.fullmatch(response["RateLimit"])  # type: ignore[index]
    assert match
    return int(match[2])


# --- Rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("600/min", Rate(quota=600, window_seconds=60)),
        ("10/s", Rate(quota=10, window_seconds=1)),
        (" 100 / 10s ", Rate(quota=100, window_seconds=10)),
        ("5000/hour", Rate(quota=5000, window_seconds=3600)),
        ("1/day", Rate(quota=1, window_seconds=86_400)),
        ("", None),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate | None) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["600", "x/min", "0/min", "-1/min", "1/0s", "1/fortnight", "1.5/s", "600/min/s"])
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(InvalidRate, match="600/min"):
        Rate.parse(text)


# --- Throttles --------------------------------------------------------------------------------------------------------


def test_without_a_rate_nothing_is_counted_or_said(caller: Caller) -> None:
    response = caller.get("/api/jobs")
    assert "RateLimit" not in response
    assert "RateLimit-Policy" not in response


def test_each_answer_says_what_is_left_and_one_too_many_is_429(caller: Caller, settings: Settings) -> None:
    settings.READ_RATE = Rate(quota=3, window_seconds=60)
    for expected in (2, 1, 0):
        response = caller.get("/api/jobs")
        assert response.status_code == 200
        assert response["RateLimit-Policy"] == POLICY.format("read", 3, 60)
        assert left(response) == expected
    refused = caller.get("/api/jobs")
    check_problem(refused, 429)
    assert left(refused) == 0
    match = STANDING.fullmatch(refused["RateLimit"])
    assert match
    assert refused["Retry-After"] == match[3]
    assert 1 <= int(match[3]) <= 60


def test_the_next_window_begins_anew(caller: Caller, settings: Settings, noon: list[float]) -> None:
    settings.READ_RATE = Rate(quota=1, window_seconds=60)
    assert caller.get("/api/jobs").status_code == 200
    refused = caller.get("/api/jobs")
    check_problem(refused, 429)
    noon[0] += float(refused["Retry-After"])
    assert caller.get("/api/jobs").status_code == 200


def test_reads_and_changes_are_counted_apart_and_each_user_alone(caller: Caller, settings: Settings) -> None:
    settings.READ_RATE = settings.SUBMIT_RATE = Rate(quota=1, window_seconds=60)
    accepted = caller.submit()
    assert accepted.status_code == 202
    assert accepted["RateLimit-Policy"] == POLICY.format("submit", 1, 60)
    check_problem(caller.submit(), 429)
    assert Job.objects.count() == 1
    assert caller.get("/api/jobs").status_code == 200
    check_problem(caller.get("/api/jobs"), 429)
    assert Caller().submit().status_code == 202


def test_who_is_refused_anyway_is_not_counted(caller: Caller, settings: Settings) -> None:
    settings.READ_RATE = Rate(quota=1, window_seconds=60)
    for _ in range(3):
        check_problem(caller.get("/api/jobs", headers={"Authorization": "Bearer unknown"}), 401)
    assert caller.get("/api/jobs").status_code == 200


def test_a_question_that_is_asked_again_is_not_counted() -> None:
    rate = Rate(quota=5, window_seconds=60)
    counts = [standing_of(7, "read", rate, amount) for amount in (1, 0, 0, 1)]
    assert [each.count for each in counts if each] == [1, 1, 1, 2]


def test_a_crowd_at_once_gets_as_many_as_are_allowed() -> None:
    rate = Rate(quota=40, window_seconds=60)
    with ThreadPoolExecutor(16) as crowd:
        standings = list(crowd.map(lambda _: standing_of(7, "read", rate, 1), range(100)))
    assert sorted(each.count for each in standings if each) == list(range(1, 101))
    assert sum(not each.is_over for each in standings if each) == 40


def test_windows_of_users_begin_at_different_times() -> None:
    rate = Rate(quota=5, window_seconds=60)
    resets = {standing.reset_seconds for each in range(20) if (standing := standing_of(each, "read", rate, 1))}
    assert len(resets) == 20


# --- Redis away -------------------------------------------------------------------------------------------------------


def test_where_redis_is_away_requests_are_let_through(caller: Caller, settings: Settings) -> None:
    settings.SUBMIT_RATE = Rate(quota=1, window_seconds=60)
    without_redis(settings)
    for _ in range(3):
        response = caller.submit()
        assert response.status_code == 202
        assert "RateLimit" not in response


def test_a_redis_that_hangs_holds_one_submission_for_less_than_a_second(caller: Caller, settings: Settings) -> None:
    settings.SUBMIT_RATE = Rate(quota=1, window_seconds=60)
    assert caller.submit().status_code == 202
    took = []
    with silent_redis(settings):
        for _ in range(4):
            begun = time.monotonic()
            assert caller.submit().status_code == 202
            took.append(time.monotonic() - begun)
    assert took[0] >= tally.ANSWER_SECONDS
    assert took[0] < 1.0
    assert max(took[1:]) < tally.ANSWER_SECONDS


def test_after_its_pause_one_asks_a_hanging_redis_and_the_others_do_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with silent_redis(settings):
        assert tally.add({"x": 1}, 60) is None
        assert not tally._circuit._may_ask()
        now[0] += tally.PAUSE_SECONDS + 0.01
        assert [tally._circuit._may_ask() for _ in range(3)] == [True, False, False]


def test_once_redis_is_back_it_counts_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    url, now = settings.REDIS_URL, [0.0]
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert tally.add({"x": 1}, 60) == [1]
    without_redis(settings)
    assert tally.add({"x": 1}, 60) is None
    settings.REDIS_URL = url
    tally._redis.cache_clear()
    assert tally.add({"x": 1}, 60) is None  # nobody asks as yet
    now[0] += tally.PAUSE_SECONDS + 0.01
    assert tally.add({"x": 1}, 60) == [2]
    assert tally.add({"x": 1}, 60) == [3]


# --- Unfinished jobs --------------------------------------------------------------------------------------------------


def test_a_user_may_have_so_many_unfinished_jobs(caller: Caller, settings: Settings) -> None:
    settings.MAX_UNFINISHED = 2
    running = claimed_job(caller.user)
    assert caller.submit(runAt="2099-01-01T00:00:00Z").status_code == 202
    refused = caller.submit()
    check_problem(refused, 429)
    assert int(refused["Retry-After"]) > 0
    lifecycle.finish([Outcome(job=running, result=None)])
    assert caller.submit().status_code == 202
    assert Caller().submit().status_code == 202


def test_what_was_promised_before_is_answered_though_the_user_has_as_many_as_may_be(
    caller: Caller, settings: Settings
) -> None:
    settings.MAX_UNFINISHED = 1
    first = caller.post("/api/jobs", {"kind": "demo.countdown", "uniqueKey": "u"}, {"Idempotency-Key": "k"})
    again = caller.post("/api/jobs", {"kind": "demo.countdown", "uniqueKey": "u"}, {"Idempotency-Key": "k"})
    assert again["Idempotent-Replayed"] == "true"
    assert caller.submit(uniqueKey="u").json()["jobId"] == first.json()["jobId"]
    check_problem(caller.submit(uniqueKey="v"), 429)
    check_problem(caller.submit(), 429)


def test_unfinished_jobs_are_counted_in_the_index_alone(
    settings: Settings, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    from jobs.quota import check_unfinished

    user = new_user()
    settings.MAX_UNFINISHED = 3
    new_job(user)
    with django_assert_num_queries(1) as queries:
        check_unfinished(user.pk)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {queries.captured_queries[0]['sql']}")
            plan = " ".join(str(row[3]) for row in cursor.fetchall())
        assert "COVERING INDEX job_unfinished" in plan
    assert "LIMIT 3" in queries.captured_queries[0]["sql"]
