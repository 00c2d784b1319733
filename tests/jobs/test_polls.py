"""The statements of status polls: they let see what `visibility` lets see, and read no more rows than they need."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.utils import timezone

from jobs import lifecycle
from jobs.credentials import make_token
from jobs.kinds import get_kind
from jobs.lifecycle import Submission
from jobs.models import Job, Token
from jobs.sql import polls
from jobs.visibility import viewer_of
from tests.factories import new_job, new_user

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MANY = 3000


def noted_token(user: User) -> Token:
    row = make_token(user, "test").row
    row.last_used_at = timezone.now()
    row.save()
    return row


@pytest.mark.django_db
def test_polls_show_what_visibility_shows() -> None:
    teams = [Group.objects.create(name=each) for each in ("red", "blue")]
    users = [new_user(is_staff=is_staff) for is_staff in (False, False, True)]
    users[0].groups.add(teams[0])
    users[1].groups.add(*teams)
    outsider = new_user()
    jobs = [new_job(owner, team_id=team and team.pk) for owner, team in product([*users, outsider], [None, *teams])]
    tokens = {user.pk: noted_token(user) for user in users}
    pairs = {(tokens[user.pk].pk, job.pk): (user, job) for user, job in product(users, jobs)}
    seen = polls.sights(pairs, timezone.now())
    for pair, (user, job) in pairs.items():
        is_visible = viewer_of(user).may_see(job.owner_id, job.team_id)
        assert (pair in seen) == is_visible
        look = polls.look(*pair)
        assert look is not None
        assert (look.token, look.token.user, look.job) == (tokens[user.pk], user, job if is_visible else None)


@pytest.mark.django_db
def test_a_job_is_read_as_the_orm_reads_it() -> None:
    owner = new_user()
    kind = get_kind("demo.countdown")
    lifecycle.accept_batch([Submission(kind=kind, owner_id=owner.pk, metadata={"a": [1, None]}, tags=["é"])], owner.pk)
    job = Job.objects.get()
    look = polls.look(noted_token(owner).pk, job.pk)
    assert look is not None
    assert look.job is not None
    for read in (look.job, polls.jobs_by_id([job.pk])[job.pk]):
        for field in Job._meta.concrete_fields:
            assert getattr(read, field.attname) == getattr(job, field.attname), field.attname
    assert polls.look("nothing", job.pk) is None


@pytest.fixture
def keeps_plans() -> Iterator[None]:
    polls.keep_plans()
    yield
    connection.close()  # it isn't for anything else


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("keeps_plans")
def test_a_plan_that_was_kept_from_an_empty_table_reads_no_more_of_a_full_one() -> None:
    owner = new_user()
    token = noted_token(owner)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE jobs_job")  # it is known to be empty
    polls.sights([(token.pk, uuid4())], timezone.now())
    submission = Submission(kind=get_kind("demo.countdown"), owner_id=owner.pk)
    jobs = lifecycle.accept([submission] * MANY)
    before = rows_read()
    asked = [(token.pk, job.pk) for job in jobs[:20]]
    assert len(polls.sights(asked, timezone.now())) == 20
    assert len(polls.jobs_by_id([job.pk for job in jobs[:20]])) == 20
    assert polls.look(token.pk, jobs[0].pk) is not None
    assert rows_read() - before <= 60


def rows_read() -> int:
    """Count the rows of jobs that were read since the start."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs_job'")
        (rows,) = cursor.fetchone()
    return int(rows)


@pytest.mark.django_db
def test_a_token_that_isnt_good_shows_nothing() -> None:
    job = new_job()
    token = noted_token(job.owner)
    pair = (token.pk, job.pk)
    now = timezone.now()
    assert pair in polls.sights([pair], now)
    Token.objects.update(expiry=now + timedelta(seconds=1))
    assert pair in polls.sights([pair], now)
    assert pair not in polls.sights([pair], now + timedelta(seconds=1))
