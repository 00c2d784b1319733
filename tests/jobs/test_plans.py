"""PostgreSQL's plans of the hot statements: kept from when there was nothing, they stay right however much there is."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from jobs import lifecycle
from jobs.kinds import get_kind
from jobs.lifecycle import Beat, Outcome, Submission
from jobs.models import Job
from tests.factories import new_user

KIND = "demo.countdown"
MANY = 5000

pytestmark = [pytest.mark.postgresql_only, pytest.mark.django_db(transaction=True)]


def submit(owner: User, count: int = 1) -> list[Job]:
    return lifecycle.accept([Submission(kind=get_kind(KIND), owner_id=owner.pk)] * count)


def play(count: int = 1) -> None:
    """Go through all hot statements."""
    worker = uuid4()
    hand = lifecycle.claim("default", worker, count, [KIND])
    lifecycle.beat([Beat(job=hand[0])])
    outcomes = [
        Outcome(job=job, begun=None if place == 0 else lifecycle.foresee_begin(job)) for place, job in enumerate(hand)
    ]
    traded = lifecycle.trade(outcomes, lifecycle.wanted("default", worker, count, [KIND]))
    assert len(traded.ended) == len(hand)
    lifecycle.finish([Outcome(job=job) for job in traded.claimed[:1]])


def rows_read() -> tuple[int, int]:
    """Give how often the jobs were read from end to end, and how many of their rows all reads have seen in all."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT seq_scan, seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs_job'"
        )
        scans, rows = cursor.fetchone()
    return scans, rows


@pytest.fixture
def _is_left_alone() -> Iterator[None]:
    """Keep the server from looking at the table by itself: planners look at rows too, once it has."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs_job SET (autovacuum_enabled = off)")
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs_job RESET (autovacuum_enabled)")


@pytest.mark.usefixtures("_is_left_alone")
def test_a_plan_that_was_kept_from_an_empty_table_reads_no_more_of_a_full_one() -> None:
    owner, another = new_user(), new_user()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE jobs_job")  # it is known to be empty
    submit(owner, 8)
    play(2)
    submit(owner, MANY)
    scans, rows = rows_read()
    submit(owner)
    submit(another)
    play(2)
    scans_after, rows_after = rows_read()
    assert scans_after == scans
    assert rows_after - rows < 200


def test_the_rule_for_plans_ends_with_its_transaction() -> None:
    """Handlers and the admin have their own queries planned as usual on the same connection."""
    (job,) = submit(new_user())
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('enable_seqscan'), current_setting('plan_cache_mode')")
        assert cursor.fetchone() == ("on", "auto")
    with transaction.atomic():
        (claimed,) = lifecycle.claim("default", uuid4())
        assert claimed.pk == job.pk


def test_hot_statements_are_prepared_once() -> None:
    owner = new_user()
    for _ in range(3):
        submit(owner, 4)
        play(2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT statement), sum(custom_plans) FROM pg_prepared_statements")
        prepared, statements, planned_anew = cursor.fetchone()
    assert statements >= 5
    assert prepared <= statements + 2  # an empty list has another type than a full one
    assert planned_anew == 0
