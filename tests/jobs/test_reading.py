"""What all reads have in common: tags, chosen fields, filters, and pages that hold while jobs come in."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client

from jobs import lifecycle
from jobs.lifecycle import Outcome
from jobs.models import Job
from tests.factories import claimed_job, new_job
from tests.jobs.api_client import Caller, check_problem, pointers_of

if TYPE_CHECKING:
    from pytest_django import DjangoAssertNumQueries

pytestmark = pytest.mark.django_db


@pytest.fixture
def caller() -> Caller:
    return Caller()


# --- Tags -------------------------------------------------------------------------------------------------------------


def test_every_read_has_a_tag_and_is_304_to_whoever_has_it(caller: Caller) -> None:
    cursor = caller.get("/api/events").json()["next"]
    job = claimed_job(caller.user)
    lifecycle.beat([lifecycle.Beat(job=job, progress={"percent": 50.0}, version=1)])  # so that its end is a guess
    batch_id = caller.post("/api/jobs/batch", {"jobs": [{"kind": "demo.countdown"}]}).json()["batchId"]
    paths = [
        "/api/jobs",
        "/api/jobs?fields=jobId&limit=1",
        f"/api/jobs/{job.pk}",
        f"/api/jobs/status/{job.pk}",
        f"/api/jobs/{job.pk}/events",
        f"/api/jobs/{job.pk}/events?after=2",
        f"/api/events?cursor={cursor}",
        f"/api/batches/{batch_id}",
        "/api/kinds",
    ]
    for path in paths:
        first = caller.get(path)
        assert first.status_code == 200, path
        assert first["Cache-Control"] == "private, no-cache"
        again = caller.get(path, headers={"If-None-Match": f'"other", {first["ETag"]}'})
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"]), path
        assert caller.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_list_and_its_tag_change_with_its_jobs(caller: Caller) -> None:
    job = claimed_job(caller.user)
    tags = [caller.get("/api/jobs")["ETag"]]
    new_job(caller.user)
    tags.append(caller.get("/api/jobs")["ETag"])
    lifecycle.finish([Outcome(job=job)])
    tags.append(caller.get("/api/jobs")["ETag"])
    assert len(set(tags)) == 3


@pytest.mark.django_db(transaction=True)
def test_a_log_and_its_tag_change_with_its_events(caller: Caller) -> None:
    cursor = caller.get("/api/events").json()["next"]
    path, own = f"/api/events?cursor={cursor}", "/api/jobs/{}/events"
    empty = caller.get(path)
    job = new_job(caller.user)
    own = own.format(job.pk)
    one, of_one = caller.get(path), caller.get(own)
    lifecycle.cancel(job.pk)
    two, of_two = caller.get(path), caller.get(own)
    assert len({each["ETag"] for each in (empty, one, two)}) == 3
    assert of_one["ETag"] != of_two["ETag"]
    here = caller.get("/api/events")
    new_job(caller.user)
    moved = caller.get("/api/events", headers={"If-None-Match": here["ETag"]})
    assert (moved.status_code, moved.json()["next"] != here.json()["next"]) == (200, True)


# --- Chosen fields ----------------------------------------------------------------------------------------------------


def test_fields_trim_a_job_a_list_and_events(caller: Caller) -> None:
    job = new_job(caller.user)
    assert caller.get(f"/api/jobs/{job.pk}", {"fields": "jobId,status,params"}).json() == {
        "jobId": str(job.pk),
        "status": "PENDING",
        "params": job.params,
    }
    assert caller.get(f"/api/jobs/status/{job.pk}", {"fields": "queuePosition"}).json() == {"queuePosition": 1}
    listed = caller.get("/api/jobs", {"fields": "jobId,done"}).json()
    assert listed == {"items": [{"jobId": str(job.pk), "done": False}], "nextCursor": None}
    (event,) = caller.get(f"/api/jobs/{job.pk}/events", {"fields": "status"}).json()["events"]
    assert (set(event), event["data"]) == ({"id", "type", "timestamp", "sequence", "data"}, {"status": "PENDING"})


@pytest.mark.parametrize(
    "fields", ["colour", "jobId,colour", "", ",", "jobId,", "JOBID", "jobId, status", "\0", "a" * 999]
)
def test_a_field_that_does_not_exist_is_422(caller: Caller, fields: str) -> None:
    job = new_job(caller.user)
    for path in (f"/api/jobs/{job.pk}", "/api/jobs", f"/api/jobs/{job.pk}/events", "/api/events"):
        assert set(pointers_of(caller.get(path, {"fields": fields}))) == {"/fields"}


def test_params_are_no_field_of_lists_and_events(caller: Caller) -> None:
    job = new_job(caller.user)
    for path in ("/api/jobs", f"/api/jobs/{job.pk}/events", "/api/events"):
        assert pointers_of(caller.get(path, {"fields": "params"})) == ["/fields"]


def test_an_estimate_that_is_not_chosen_is_not_made(
    caller: Caller, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    job = new_job(caller.user)
    path = f"/api/jobs/{job.pk}/events"
    caller.get(path)
    path = f"/api/jobs/{job.pk}?fields="
    with django_assert_num_queries(2):
        assert caller.get(path + "jobId,queuePosition").json()["queuePosition"] == 1
    with django_assert_num_queries(1):
        caller.get(path + "jobId,status")


# --- Filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "word", "is_found"),
    [
        (5, "5", True),
        (5, "5.0", True),
        (5.0, "5", True),
        (5.5, "5.5", True),
        (-1e20, "-1e20", True),
        (5, "05", False),
        (5, "6", False),
        ("5", "5", True),
        ("5.0", "5", False),
        (True, "true", True),
        (True, "1", False),
        (1, "true", False),
        (False, "false", True),
        (False, "0", False),
        (None, "null", True),
        (None, "false", False),
        ("true", "true", True),
        ("null", "null", True),
        (True, "True", False),
        ([5], "5", False),
        ({"5": 5}, "5", False),
        ("x", "1e999", False),
        ("9" * 400, "9" * 400, True),
    ],
)
def test_metadata_is_found_by_text_number_boolean_and_null(
    caller: Caller, stored: Any, word: str, is_found: bool
) -> None:
    job = new_job(caller.user, metadata={"k": stored})
    new_job(caller.user, metadata={"other": stored})
    for words in (word, [word, "elsewhere"]):
        found = caller.get("/api/jobs", {"metadata.k": words}).json()["items"]
        assert [each["jobId"] for each in found] == ([str(job.pk)] if is_found else [])


def test_filters_are_joined(caller: Caller) -> None:
    wanted = new_job(caller.user, tags=["a"], metadata={"n": 1})
    new_job(caller.user, tags=["a"], metadata={"n": 2})
    new_job(caller.user, metadata={"n": 1})
    query = {"tag": "a", "metadata.n": "1", "status": "PENDING", "kind": "demo.countdown", "scope": "all", "limit": "5"}
    assert [each["jobId"] for each in caller.get("/api/jobs", query).json()["items"]] == [str(wanted.pk)]


# --- Pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(4))
def test_pages_neither_skip_nor_repeat_while_jobs_come_in_by_several_connections(seed: int) -> None:
    """All that was committed before the walk is seen once; what comes in meanwhile is seen at most once."""
    caller, chance = Caller(), random.Random(seed)
    before = [new_job(caller.user).pk for _ in range(chance.randint(0, 25))]
    is_over, faults = threading.Event(), []

    def insert() -> None:
        try:
            while not is_over.is_set():
                new_job(caller.user)
        except Exception as fault:
            faults.append(fault)
        finally:
            connection.close()

    writers = [threading.Thread(target=insert) for _ in range(3)]
    for each in writers:
        each.start()
    try:
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": str(chance.randint(1, 7)), "fields": "jobId"} | ({"cursor": cursor} if cursor else {})
            page = caller.get("/api/jobs", query).json()
            seen += [each["jobId"] for each in page["items"]]
            cursor = page["nextCursor"]
    finally:
        is_over.set()
        for each in writers:
            each.join()
    assert not faults
    assert seen == sorted(set(seen), reverse=True), "newest first, and none twice"
    assert {str(pk) for pk in before} <= set(seen)
    assert set(seen) <= {str(pk) for pk in Job.objects.values_list("pk", flat=True)}


# --- What Django itself refuses ---------------------------------------------------------------------------------------


def test_a_host_that_is_not_ours_is_a_problem(caller: Caller) -> None:
    check_problem(Client(raise_request_exception=False).get("/api/jobs", headers={"Host": "evil.example"}), 400)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_a_probe_is_only_read(path: str, method: str) -> None:
    response = getattr(Client(enforce_csrf_checks=True), method)(path)
    check_problem(response, 405)
    assert response["Allow"] == "GET, HEAD"


def test_an_unknown_batch_is_a_problem(caller: Caller) -> None:
    check_problem(caller.get(f"/api/batches/{uuid4()}"), 404)
    check_problem(caller.get("/api/batches/x"), 404)
