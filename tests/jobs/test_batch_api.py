"""Batches over HTTP: all jobs or none, each fault with its place, and how they stand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rest_framework import serializers

from jobs import kinds, lifecycle, retention
from jobs.api.checks import OWN, SubmissionChecker
from jobs.kinds import kind
from jobs.lifecycle import Outcome
from jobs.models import Batch, Event, IdempotencyKey, Job, Status
from notifications.models import Delivery, DeliveryStatus
from tests.factories import new_job, new_user
from tests.jobs.api_client import Caller, check_problem, pointers_of

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Response
    from pytest_django import DjangoAssertNumQueries, Settings

pytestmark = pytest.mark.django_db

COUNTDOWN: dict[str, Any] = {"kind": "demo.countdown"}


@pytest.fixture
def caller() -> Caller:
    return Caller()


def submit(caller: Caller, jobs: Any, key: str | None = None, **more: Any) -> Response:
    headers = {"Idempotency-Key": key} if key else None
    return caller.post("/api/jobs/batch", {"jobs": jobs, **more}, headers=headers)


def ids_of(response: Response) -> list[str]:
    assert response.status_code == 202, response.content
    return [each["jobId"] for each in response.json()["jobs"]]


def nothing_was_made() -> bool:
    return not (Batch.objects.exists() or Job.objects.exists() or IdempotencyKey.objects.exists())


# --- Submitting -------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_by_the_receipts_of_its_jobs_in_order(caller: Caller) -> None:
    bodies = [COUNTDOWN | {"params": {"steps": n}, "metadata": {"n": n}, "tags": [f"t{n}"]} for n in (3, 1, 2)]
    response = submit(caller, bodies)
    assert response.status_code == 202
    batch, shown = Batch.objects.get(), response.json()
    assert set(shown) == {"batchId", "batchUrl", "jobs"}
    assert (shown["batchId"], response["Location"]) == (str(batch.pk), shown["batchUrl"])
    assert shown["batchUrl"].endswith(f"/api/batches/{batch.pk}")
    assert [each["job"]["metadata"] for each in shown["jobs"]] == [{"n": 3}, {"n": 1}, {"n": 2}]
    assert [each["job"]["params"]["steps"] for each in shown["jobs"]] == [3, 1, 2]
    for receipt in shown["jobs"]:
        alone = caller.get(f"/api/jobs/{receipt['jobId']}").json()
        assert receipt["job"] == alone | {"queuePosition": None, "estimatedFinishAt": None}
        assert receipt["job"]["batchId"] == str(batch.pk)
        assert set(receipt) == {"jobId", "status", "statusUrl", "eventsUrl", "createdAt", "job"}


def test_each_fault_of_each_job_has_its_place_and_nothing_is_made(caller: Caller) -> None:
    bodies = [COUNTDOWN for _ in range(6)]
    bodies[1] = COUNTDOWN | {"params": {"seconds": "x"}}
    bodies[3] = {"kind": "no.such", "priority": 1000}
    bodies[4] = COUNTDOWN | {"tags": [5], "colour": "red", "params": {"steps": 0}}
    bodies[5] = {"kind": "csv.report"}
    assert set(pointers_of(submit(caller, bodies))) == {
        "/jobs/1/params/seconds",
        "/jobs/3/kind",
        "/jobs/3/priority",
        "/jobs/4/tags/0",
        "/jobs/4/colour",
        "/jobs/4/params/steps",
        "/jobs/5/params/file",
    }
    assert nothing_was_made()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/jobs"),
        ({"jobs": []}, "/jobs"),
        ({"jobs": {}}, "/jobs"),
        ({"jobs": "x"}, "/jobs"),
        ({"jobs": None}, "/jobs"),
        ({"jobs": [COUNTDOWN] * 1001}, "/jobs"),
        ({"jobs": [COUNTDOWN, 5]}, "/jobs/1"),
        ({"jobs": [None]}, "/jobs/0"),
        ({"jobs": [[]]}, "/jobs/0"),
        ({"jobs": [{}]}, "/jobs/0/kind"),
        ({"jobs": [COUNTDOWN], "callbackUrl": 5}, "/callbackUrl"),
        ({"jobs": [COUNTDOWN], "callbackUrl": "http://127.0.0.1/"}, "/callbackUrl"),
        ({"jobs": [COUNTDOWN | {"callbackUrl": "http://127.0.0.1/"}]}, "/jobs/0/callbackUrl"),
        ({"jobs": [COUNTDOWN | {"team": "nobody's"}]}, "/jobs/0/team"),
        ({"jobs": [COUNTDOWN], "colour": "red"}, "/colour"),
        ([], ""),
        ("x", ""),
    ],
)
def test_what_is_no_batch_is_pointed_to(caller: Caller, body: Any, pointer: str) -> None:
    assert pointers_of(caller.post("/api/jobs/batch", body)) == [pointer]
    assert nothing_was_made()


def test_a_batch_without_a_body_is_400_and_one_of_another_type_is_415(caller: Caller) -> None:
    check_problem(caller.client.post("/api/jobs/batch", "", content_type="application/json"), 400)
    check_problem(caller.client.post("/api/jobs/batch", "{", content_type="application/json"), 400)
    check_problem(caller.client.post("/api/jobs/batch", "x", content_type="text/plain"), 415)
    large = json.dumps({"jobs": [COUNTDOWN | {"metadata": {"k": "v" * 1_100_000}}]})
    check_problem(caller.client.post("/api/jobs/batch", large, content_type="application/json"), 413)


def test_a_thousand_ordinary_jobs_fit_into_a_body(caller: Caller) -> None:
    """The limit of JSON is 1 MiB: about a thousand bytes a job."""
    ordinary = COUNTDOWN | {
        "params": {"seconds": 12.5, "steps": 100, "failures": 0},
        "callbackUrl": "https://1.1.1.1/hooks/kabar/orders",
        "tags": ["invoices", "2026-11", "tenant-4711"],
        "metadata": {"orderId": str(uuid4()), "customer": "c" * 120, "note": "n" * 300},
    }
    response = submit(caller, [ordinary] * 1000)
    assert len(ids_of(response)) == 1000
    assert Job.objects.count() == 1000


def test_a_batch_costs_the_same_statements_however_many_jobs_it_has(
    caller: Caller, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    ids_of(submit(caller, [COUNTDOWN]))
    many = [COUNTDOWN | {"metadata": {"n": n}, "uniqueKey": f"k{n}"} for n in range(200)]
    with django_assert_num_queries(13):
        ids_of(submit(caller, many))


def test_a_batch_counts_against_the_quota_as_a_whole(caller: Caller, settings: Settings) -> None:
    settings.MAX_UNFINISHED = 5
    caller.submit()
    check_problem(submit(caller, [COUNTDOWN] * 5), 429)
    assert Batch.objects.count() == 0
    assert len(ids_of(submit(caller, [COUNTDOWN] * 4, key="k"))) == 4
    assert submit(caller, [COUNTDOWN] * 4, key="k")["Idempotent-Replayed"] == "true"


# --- What is alike is looked at once ----------------------------------------------------------------------------------


class Choosy(serializers.Serializer[Any]):
    """Params that look at each other, and at what was given."""

    low = serializers.IntegerField(default=0)
    high = serializers.IntegerField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("high", 10) < attrs["low"]:
            raise serializers.ValidationError({"high": ["This is below low."]})
        return attrs | {"given": sorted(self.initial_data)}


@pytest.fixture
def _choosy() -> Iterator[None]:
    kind("test.choosy", params=Choosy)(lambda _context, _params: None)
    yield
    kinds._registry.pop("test.choosy")


values = st.one_of(
    st.sampled_from([0, 1, True, False, 1.0, 0.0, None, "1", "", "a", [], {}, ["a"], {"k": 1}, {"k": True}]),
    st.integers(-200, 200),
)
bodies = st.fixed_dictionaries(
    {"kind": st.sampled_from(["test.choosy", "test.choosy", "demo.countdown", "no.such", 1])},
    optional=dict.fromkeys((*OWN, "priority", "maxAttempts", "onConflict", "callbackUrl", "startWithin", "odd"), values)
    | {"params": st.dictionaries(st.sampled_from(["low", "high", "steps"]), values, max_size=2)},
)


@pytest.mark.usefixtures("_choosy")
@given(some=st.lists(bodies | values, min_size=1, max_size=6))
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_jobs_checked_together_are_checked_as_each_alone(some: list[Any]) -> None:
    def outcome(checker: SubmissionChecker, body: Any) -> Any:
        try:
            return repr(checker.check(body, {}))
        except serializers.ValidationError as error:
            return error.get_full_details()

    together = SubmissionChecker(1)
    for body in [*some, *some]:
        assert outcome(together, body) == outcome(SubmissionChecker(1), body)


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_a_unique_key_that_comes_twice_is_refused(caller: Caller) -> None:
    keyed = COUNTDOWN | {"uniqueKey": "u"}
    assert pointers_of(submit(caller, [keyed, COUNTDOWN, keyed])) == ["/jobs/2/uniqueKey"]
    assert nothing_was_made()


def test_a_taken_unique_key_is_returned_in_its_place(caller: Caller) -> None:
    standing = new_job(caller.user, unique_key="u")
    new_job(new_user(), unique_key="v")
    bodies = [COUNTDOWN, COUNTDOWN | {"uniqueKey": "u"}, COUNTDOWN | {"uniqueKey": "v"}]
    response = submit(caller, bodies, key="k")
    ids = ids_of(response)
    assert ids[1] == str(standing.pk)
    assert response.json()["jobs"][1]["job"]["batchId"] is None
    batch = Batch.objects.get()
    assert batch.total == batch.jobs.count() == 2
    replay = submit(caller, bodies, key="k")
    assert (ids_of(replay), replay["Idempotent-Replayed"]) == (ids, "true")


@pytest.mark.django_db(transaction=True)
def test_a_batch_of_nothing_but_standing_jobs_is_done_at_once(caller: Caller) -> None:
    new_job(caller.user, unique_key="u")
    response = submit(caller, [COUNTDOWN | {"uniqueKey": "u"}])
    shown = caller.get(f"/api/batches/{response.json()['batchId']}").json()
    assert (shown["total"], shown["done"]) == (0, True)
    assert Event.objects.filter(batch=shown["batchId"]).count() == 1


def test_a_taken_unique_key_that_is_to_be_rejected_refuses_the_whole(caller: Caller) -> None:
    new_job(caller.user, unique_key="u")
    bodies = [COUNTDOWN, COUNTDOWN | {"uniqueKey": "u", "onConflict": "reject"}]
    assert pointers_of(submit(caller, bodies), 409) == ["/jobs/1/uniqueKey"]
    assert (Job.objects.count(), Batch.objects.count()) == (1, 0)


def test_standing_jobs_are_replaced_together_or_not_at_all(caller: Caller) -> None:
    pending = new_job(caller.user, unique_key="u")
    running = new_job(caller.user, unique_key="v", priority=1)
    (claimed,) = lifecycle.claim("default", uuid4())
    assert claimed.pk == running.pk
    bodies = [COUNTDOWN | {"uniqueKey": key, "onConflict": "replace"} for key in ("u", "v")]
    assert pointers_of(submit(caller, bodies), 409) == ["/jobs/1/uniqueKey"]
    pending.refresh_from_db()
    assert pending.status == Status.PENDING
    lifecycle.finish([Outcome(job=claimed)])
    assert len(ids_of(submit(caller, bodies))) == 2
    pending.refresh_from_db()
    assert pending.status == Status.CANCELLED


def test_a_key_with_the_same_batch_replays_it_and_with_another_is_422(caller: Caller) -> None:
    keyed = [COUNTDOWN | {"uniqueKey": "u", "onConflict": "reject"}, COUNTDOWN]
    first = submit(caller, keyed, key="k")
    again = submit(caller, keyed, key="k")
    assert again["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert (again.json(), again["Location"]) == (first.json(), first["Location"])
    check_problem(submit(caller, keyed[:1], key="k"), 422)
    check_problem(caller.post("/api/jobs", COUNTDOWN, headers={"Idempotency-Key": "k"}), 422)
    assert Job.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_conflict", ["return", "reject", "replace"])
def test_eight_batches_at_once_with_one_key_make_one(on_conflict: str) -> None:
    caller, start = Caller(), threading.Barrier(8)
    bodies = [COUNTDOWN | {"uniqueKey": f"u{n}", "onConflict": on_conflict} for n in range(3)]
    answers: list[Response] = []

    def send() -> None:
        start.wait(timeout=20)
        try:
            answers.append(submit(caller, bodies, key="k"))
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({tuple(ids_of(each)) for each in answers}) == 1
    assert sum("Idempotent-Replayed" in each for each in answers) == 7
    assert (Job.objects.count(), Batch.objects.count()) == (3, 1)
    assert set(Job.objects.values_list("status", flat=True)) == {Status.PENDING}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_conflict", ["return", "reject", "replace"])
def test_batches_that_want_the_same_unique_keys_get_no_500(on_conflict: str) -> None:
    caller, start = Caller(), threading.Barrier(3)
    codes: list[int] = []

    def send(place: int) -> None:
        keys = ["a", "b", "c"][place:] + ["a", "b", "c"][:place]
        bodies = [COUNTDOWN | {"uniqueKey": key, "onConflict": on_conflict} for key in keys]
        start.wait(timeout=20)
        try:
            codes.extend(submit(caller, bodies).status_code for _ in range(4))
        finally:
            connection.close()

    threads = [threading.Thread(target=send, args=[place]) for place in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(codes) <= {202, 409}
    assert 202 in codes
    assert Job.objects.filter(status=Status.PENDING).count() == 3


# --- Reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_batch_tells_how_its_jobs_stand(caller: Caller) -> None:
    bodies = [COUNTDOWN | {"maxAttempts": 1, "priority": -n} for n in range(5)]
    path = f"/api/batches/{submit(caller, bodies).json()['batchId']}"
    first = caller.get(path)
    shown = first.json()
    assert {name: value for name, value in shown.items() if name not in ("batchId", "createdAt")} == {
        "total": 5,
        "pending": 5,
        "running": 0,
        "completed": 0,
        "failed": 0,
        "cancelled": 0,
        "done": False,
        "finishedAt": None,
    }
    assert int(first["Retry-After"]) >= 1
    assert caller.get(path, headers={"If-None-Match": first["ETag"]}).status_code == 304
    claimed = [lifecycle.claim("default", uuid4())[0] for _ in range(3)]
    lifecycle.finish([Outcome(job=claimed[0])])
    lifecycle.finish([Outcome(job=claimed[1], error={"code": "e", "message": "m"})])
    changed = caller.get(path, headers={"If-None-Match": first["ETag"]})
    assert changed.status_code == 200
    shown = changed.json()
    assert [shown[name] for name in ("pending", "running", "completed", "failed", "done")] == [2, 1, 1, 1, False]
    lifecycle.finish([Outcome(job=claimed[2])])
    for job in Job.objects.filter(status=Status.PENDING):
        lifecycle.cancel(job.pk)
    done = caller.get(path)
    shown = done.json()
    assert [shown[name] for name in ("completed", "failed", "cancelled", "done")] == [2, 1, 2, True]
    assert shown["finishedAt"]
    assert "Retry-After" not in done


@pytest.mark.django_db(transaction=True)
def test_the_event_of_a_batch_is_the_batch_as_it_stood(caller: Caller) -> None:
    start = caller.get("/api/events").json()["next"]
    batch_id = submit(caller, [COUNTDOWN | {"maxAttempts": 1}] * 2).json()["batchId"]
    claimed = [lifecycle.claim("default", uuid4())[0] for _ in range(2)]
    lifecycle.finish([Outcome(job=claimed[0]), Outcome(job=claimed[1], error={"code": "e", "message": "m"})])
    stood = caller.get(f"/api/batches/{batch_id}").json()
    lifecycle.reopen(claimed[1].pk, by="somebody")
    events = caller.get("/api/events", {"cursor": start, "fields": "jobId"}).json()["events"]
    (event,) = [each for each in events if each["type"] == "batch.completed"]
    assert (event["sequence"], event["data"]) == (1, stood)
    assert (stood["completed"], stood["failed"], stood["done"]) == (1, 1, True)
    assert event["timestamp"] == stood["finishedAt"]
    now = caller.get(f"/api/batches/{batch_id}").json()
    assert (now["pending"], now["failed"], now["done"]) == (1, 0, True)
    other = Caller()
    assert other.get("/api/events", {"cursor": start}).json()["events"] == []


def test_a_batch_is_seen_by_its_owner_by_staff_and_by_the_team_of_all_its_jobs(caller: Caller) -> None:
    team = Group.objects.create(name="team")
    mate, staff = Caller(), Caller(new_user(is_staff=True))
    for each in (caller, mate):
        each.user.groups.add(team)
    own = submit(caller, [COUNTDOWN]).json()["batchUrl"]
    shared = submit(caller, [COUNTDOWN | {"team": "team"}] * 2).json()["batchUrl"]
    partly = submit(caller, [COUNTDOWN | {"team": "team"}, COUNTDOWN]).json()["batchUrl"]
    for reader, status in ((caller, [200, 200, 200]), (staff, [200, 200, 200]), (mate, [404, 200, 404])):
        assert [reader.get(path).status_code for path in (own, shared, partly)] == status
    check_problem(Caller().get(shared), 404)
    check_problem(caller.get(f"/api/batches/{uuid4()}"), 404)


def test_the_jobs_of_a_batch_are_listed(caller: Caller) -> None:
    response = submit(caller, [COUNTDOWN] * 2)
    caller.submit()
    listed = caller.get("/api/jobs", {"batch": response.json()["batchId"]}).json()["items"]
    assert [each["jobId"] for each in listed] == ids_of(response)[::-1]


@pytest.mark.django_db(transaction=True)
def test_a_batch_without_jobs_stays_while_its_end_is_still_to_be_delivered(caller: Caller) -> None:
    response = submit(caller, [COUNTDOWN], callbackUrl="https://1.1.1.1/hook")
    (job,) = lifecycle.claim("default", uuid4())
    lifecycle.finish([Outcome(job=job)])
    (delivery,) = caller.get("/api/deliveries").json()["items"]
    batch_id = response.json()["batchId"]
    assert (delivery["type"], delivery["jobId"], delivery["batchId"]) == ("batch.completed", None, batch_id)
    assert caller.delete(f"/api/jobs/{job.pk}").status_code == 204, "it isn't the job's delivery"
    assert retention.remove_empty_batches(None, 10).removed == 0
    Delivery.objects.update(status=DeliveryStatus.DELIVERED)
    assert retention.remove_empty_batches(None, 10).removed == 1
    assert not Delivery.objects.exists()
    assert Caller().get("/api/deliveries").json()["items"] == []
