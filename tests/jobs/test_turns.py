"""Users take turns: whoever has a backlog keeps nobody waiting, and is kept waiting by nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from django.utils import timezone

from jobs import kinds, lifecycle
from jobs.kinds import get_kind, kind
from jobs.lifecycle import Outcome, Submission
from jobs.models import Job
from tests.factories import new_job, new_user

if TYPE_CHECKING:
    from django.contrib.auth.models import User

pytestmark = pytest.mark.django_db

PLAIN, GONE = "test.plain", "test.gone"
ONE_EACH, ONE_OF_ALL = "test.one_each", "test.one_of_all"
"""One job runs at once, and for each user; one job runs at once, whoever's."""
FAILURE = {"code": "e", "message": "m"}


@pytest.fixture(autouse=True)
def _own_kinds() -> Iterator[None]:
    kind(PLAIN)(lambda _context, _params: None)
    kind(GONE)(lambda _context, _params: None)
    kind(ONE_EACH, max_running=1, max_running_per_user=1)(lambda _context, _params: None)
    kind(ONE_OF_ALL, max_running=1)(lambda _context, _params: None)
    yield
    for name in (PLAIN, GONE, ONE_EACH, ONE_OF_ALL):
        kinds._registry.pop(name, None)


def submit(owner: User, count: int = 1, name: str = PLAIN, priority: int = 0) -> list[Job]:
    """Have one user's jobs accepted in one go."""
    one = Submission(kind=get_kind(name), owner_id=owner.pk, priority=priority)
    return lifecycle.accept([one] * count)


def next_job() -> Job:
    (job,) = lifecycle.claim("default", uuid4())
    return job


def run_next() -> Job:
    """Have the next job run to its end, and tell whose it was."""
    job = next_job()
    lifecycle.finish([Outcome(job=job)])
    return job


def owners_of_next(count: int) -> list[int]:
    return [run_next().owner_id for _ in range(count)]


def come_back(job: Job) -> None:
    """Have a job fail once, and its next try be due."""
    lifecycle.finish([Outcome(job=job, error=FAILURE, retry_after=0)])
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(100)


def test_a_thousand_jobs_of_one_user_do_not_starve_anothers_one() -> None:
    many, one = new_user(), new_user()
    submit(many, 1000)
    owners_of_next(10)
    submit(one)
    assert one.pk in owners_of_next(2)


def test_a_thousand_jobs_claimed_by_the_handful_do_not_starve_anothers_one() -> None:
    many, one = new_user(), new_user()
    submit(many, 1000)
    in_hand = lifecycle.claim("default", uuid4(), 32, [PLAIN])
    submit(one)
    assert len(in_hand) == 32
    assert one.pk in [job.owner_id for job in lifecycle.claim("default", uuid4(), 2, [PLAIN])]


def test_three_users_alternate() -> None:
    users = [new_user() for _ in range(3)]
    for each in users:
        submit(each, 10)
    order = owners_of_next(30)
    for turn in range(10):
        assert set(order[3 * turn : 3 * turn + 3]) == {each.pk for each in users}


def test_users_whose_jobs_come_mixed_in_one_submission_alternate() -> None:
    first, second = new_user(), new_user()
    lifecycle.accept(
        [Submission(kind=get_kind(PLAIN), owner_id=owner.pk) for owner in (*[first] * 5, *[second] * 5)],
    )
    order = owners_of_next(10)
    assert all(set(order[turn : turn + 2]) == {first.pk, second.pk} for turn in range(0, 10, 2))


def test_a_users_own_jobs_run_in_the_order_they_were_submitted() -> None:
    owner, other = new_user(), new_user()
    jobs = submit(owner, 3)
    submit(other, 5)
    jobs += submit(owner, 4)
    ran = [run_next() for _ in range(12)]
    assert [job.pk for job in ran if job.owner_id == owner.pk] == [job.pk for job in jobs]


def test_priorities_win_over_turns() -> None:
    first, second = new_user(), new_user()
    submit(first, 3)
    submit(second, 5, priority=1)
    submit(first, 1, priority=-1)
    submit(second, 1, priority=-100)
    assert owners_of_next(10) == [*[second.pk] * 5, *[first.pk] * 4, second.pk]


def test_within_each_priority_users_alternate() -> None:
    first, second = new_user(), new_user()
    submit(first, 50)
    submit(first, 3, priority=5)
    submit(second, 3, priority=5)
    order = owners_of_next(6)
    assert all(set(order[turn : turn + 2]) == {first.pk, second.pk} for turn in range(0, 6, 2))


def test_queues_have_turns_of_their_own() -> None:
    owner, other = new_user(), new_user()
    kind(GONE, queue="elsewhere")(lambda _context, _params: None)
    submit(owner, 20, GONE)
    submit(other, 2)
    submit(owner, 2)
    assert Counter(owners_of_next(2)) == {owner.pk: 1, other.pk: 1}


def test_one_who_submits_one_by_one_gets_every_other_turn() -> None:
    backlog, singles = new_user(), new_user()
    submit(backlog, 50)
    order = []
    for _ in range(20):
        submit(singles)
        order += owners_of_next(2)
    assert Counter(order) == {backlog.pk: 20, singles.pk: 20}


def test_users_who_submit_one_by_one_do_not_starve_one_with_a_backlog() -> None:
    backlog, singles = new_user(), [new_user(), new_user()]
    submit(backlog, 20)
    for each in singles:
        submit(each)
    order = []
    for _ in range(30):
        job = run_next()
        order.append(job.owner_id)
        if job.owner_id != backlog.pk:  # each of the two has always one job in line, and never more
            submit(next(each for each in singles if each.pk == job.owner_id))
    assert Counter(order)[backlog.pk] >= 8


def test_a_job_that_nobody_can_run_does_not_let_newcomers_pass_a_backlog() -> None:
    """Its kind is gone, so it stands first for ever, and its turn falls ever further behind."""
    left, busy, *newcomers = (new_user() for _ in range(12))
    submit(left, 1, GONE)
    del kinds._registry[GONE]
    backlog = submit(busy, 20)
    for _ in range(5):
        assert run_next().owner_id == busy.pk
    for each in newcomers:
        submit(each)
    assert backlog[5].pk in {run_next().pk for _ in range(2)}
    served = [run_next().owner_id for _ in range(11)]
    assert served.count(busy.pk) >= 2


def test_a_user_whose_jobs_are_all_retried_gets_no_more_than_their_turn() -> None:
    backlog, retried = new_user(), new_user()
    submit(backlog, 30)
    lifecycle.accept([Submission(kind=get_kind(PLAIN), owner_id=retried.pk, max_attempts=50)])
    order = []
    for _ in range(20):
        job = next_job()
        order.append(job.owner_id)
        if job.owner_id == retried.pk:
            come_back(job)
        else:
            lifecycle.finish([Outcome(job=job)])
    assert 9 <= Counter(order)[backlog.pk] <= 11


def test_a_retried_job_waits_for_no_more_than_a_turn_of_others() -> None:
    backlog, one = new_user(), new_user()
    submit(one)
    job = next_job()
    submit(backlog, 100)
    owners_of_next(10)
    come_back(job)
    assert one.pk in owners_of_next(2)


def test_a_scheduled_job_comes_in_by_its_turn_when_it_is_due() -> None:
    backlog, later = new_user(), new_user()
    job = new_job(later, PLAIN, params={}, run_at=timezone.now() + timedelta(hours=1))
    submit(backlog, 100)
    owners_of_next(10)
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(100)
    assert later.pk in owners_of_next(2)


def test_a_thousand_promoted_jobs_do_not_starve_anothers_one() -> None:
    many, one = new_user(), new_user()
    soon = timezone.now() + timedelta(hours=1)
    lifecycle.accept([Submission(kind=get_kind(PLAIN), owner_id=many.pk, run_at=soon)] * 300)
    Job.objects.update(run_at=timezone.now() - timedelta(seconds=1))
    lifecycle.promote(1000)
    owners_of_next(5)
    submit(one)
    assert one.pk in owners_of_next(2)


def test_what_is_given_back_keeps_its_place() -> None:
    owner, other = new_user(), new_user()
    jobs = submit(owner, 6)
    hand = lifecycle.claim("default", uuid4(), 4, [PLAIN])
    submit(other, 3)
    lifecycle.give_back(hand[1:])
    ran = [run_next() for _ in range(8)]
    assert [job.pk for job in ran if job.owner_id == owner.pk] == [job.pk for job in jobs[1:]]
    assert {job.owner_id for job in ran[:2]} == {owner.pk, other.pk}


def test_a_released_job_is_the_next_of_its_user() -> None:
    owner = new_user()
    first, *_ = submit(owner, 3)
    lifecycle.release(next_job())
    assert next_job().pk == first.pk


def test_at_the_gate_of_a_kind_a_thousand_jobs_do_not_starve_anothers_one() -> None:
    many, one = new_user(), new_user()
    submit(many, 1000, ONE_OF_ALL)
    owners_of_next(10)
    submit(one, 1, ONE_OF_ALL)
    assert one.pk in owners_of_next(3)


def test_at_the_gates_of_a_kind_with_two_limits_nobody_starves() -> None:
    early, late = new_user(), new_user()
    submit(early, 60, ONE_EACH)
    owners_of_next(20)
    submit(late, 20, ONE_EACH)
    counted = Counter(owners_of_next(20))
    assert counted[early.pk] >= 8
    assert counted[late.pk] >= 8


def test_at_the_gate_of_a_kind_priorities_win() -> None:
    owner, urgent = new_user(), new_user()
    submit(owner, 10, ONE_OF_ALL)
    run_next()
    submit(urgent, 2, ONE_OF_ALL, priority=1)
    assert owners_of_next(4) == [owner.pk, urgent.pk, urgent.pk, owner.pk]
