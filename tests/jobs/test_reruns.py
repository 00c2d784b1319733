"""A job once more: what is taken over, what may be changed, and who may ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from rest_framework import serializers

from jobs import kinds, lifecycle, retention
from jobs.kinds import UploadField, kind
from jobs.lifecycle import Outcome
from jobs.models import Job, JobUpload, Upload
from tests.factories import new_job, new_user
from tests.jobs.api_client import Caller, check_problem, pointers_of

if TYPE_CHECKING:
    from pathlib import Path

    from django.test.client import _MonkeyPatchedWSGIResponse as Response
    from pytest_django import Settings

pytestmark = pytest.mark.django_db


class TwoFiles(serializers.Serializer[Any]):
    """Two files, of which one may be left out, and a text."""

    left = UploadField()
    right = UploadField(required=False)
    word = serializers.CharField(default="none")

    def validate_left(self, value: Any) -> Any:
        if not value.read().startswith(b"l"):
            raise serializers.ValidationError("This doesn't begin with l.")
        value.seek(0)
        return value


@pytest.fixture(autouse=True)
def _two_files(settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.MEDIA_ROOT = tmp_path
    kind("test.two_files", params=TwoFiles)(lambda _context, _params: None)
    kind("test.plain", timeout=77, max_attempts=2)(lambda _context, _params: None)
    yield
    for name in ("test.two_files", "test.plain"):
        kinds._registry.pop(name)


@pytest.fixture
def caller() -> Caller:
    return Caller()


def form(
    caller: Caller, path: str, job: dict[str, Any], files: dict[str, bytes], headers: dict[str, str] | None = None
) -> Response:
    from django.core.files.uploadedfile import SimpleUploadedFile

    parts = {name: SimpleUploadedFile(f"{name}.txt", body) for name, body in files.items()}
    return caller.client.post(path, {"job": json.dumps(job), **parts}, headers=headers)


def two_files(caller: Caller, key: str | None = None, **files: bytes) -> Response:
    headers = {"Idempotency-Key": key} if key else None
    body = {"kind": "test.two_files", "params": {"word": "w"}}
    return form(caller, "/api/jobs", body, files or {"left": b"l1", "right": b"r1"}, headers)


def rerun(caller: Caller, job_id: Any, changes: Any = None, key: str | None = None) -> Response:
    headers = {"Idempotency-Key": key} if key else None
    return caller.post(f"/api/jobs/{job_id}/rerun", changes or {}, headers=headers)


def kept_files(**of_job: Any) -> dict[str, bytes]:
    kept = {}
    for each in JobUpload.objects.filter(**of_job).select_related("upload"):
        with each.upload.file.open() as file:
            kept[each.param] = file.read()
    return kept


SUBMITTED = {
    "kind": "demo.countdown",
    "params": {"seconds": 2.0, "steps": 4, "failures": 0},
    "priority": 7,
    "tags": ["a"],
    "metadata": {"k": [1, True]},
}
LIMITS = {"maxAttempts": 9, "timeout": 50, "startWithin": 600, "deadline": 700}


def test_a_rerun_is_a_new_job_with_all_that_was_submitted(caller: Caller) -> None:
    first = caller.submit(
        **SUBMITTED,
        **LIMITS,
        callbackUrl="https://1.1.1.1/hook",
        callbackEvents=["job.failed"],
        runAt="2020-01-01T00:00:00Z",
    ).json()
    old = Job.objects.get()
    response = rerun(caller, old.pk)
    assert response.status_code == 202
    receipt, new = response.json(), Job.objects.exclude(pk=old.pk).get()
    assert (receipt["jobId"], response["Location"]) == (str(new.pk), receipt["statusUrl"])
    assert receipt["job"]["retriedFrom"] == first["jobId"]
    assert {name: receipt["job"][name] for name in SUBMITTED} == SUBMITTED
    kept = (
        "max_attempts", "timeout_seconds", "start_within_seconds", "deadline_seconds", "callback_url",
        "callback_events", "owner_id", "kind", "queue",
    )  # fmt: skip
    assert [getattr(new, name) for name in kept] == [getattr(old, name) for name in kept]
    assert (new.run_at, new.status) == (None, "PENDING")
    assert caller.get(f"/api/jobs/{old.pk}").json()["retriedFrom"] is None


@pytest.mark.parametrize("body", ["", "{}"])
def test_a_rerun_needs_no_body(caller: Caller, body: str) -> None:
    job = new_job(caller.user)
    response = caller.client.post(f"/api/jobs/{job.pk}/rerun", body, content_type="application/json")
    assert response.status_code == 202
    assert caller.client.generic("POST", f"/api/jobs/{job.pk}/rerun").status_code == 202
    assert Job.objects.filter(retried_from=job).count() == 2


def test_what_is_changed_is_changed_and_params_are_replaced_as_a_whole(caller: Caller) -> None:
    caller.submit(**SUBMITTED)
    old = Job.objects.get()
    again = rerun(caller, old.pk, {"params": {"steps": 2}, "tags": [], "priority": 0}).json()["job"]
    assert again["params"] == {"seconds": 5, "steps": 2, "failures": 0}, "the kind's own, but for what was given"
    assert (again["tags"], again["priority"], again["metadata"]) == ([], 0, {"k": [1, True]})


def test_changes_are_checked_like_any_submission(caller: Caller) -> None:
    job = new_job(caller.user)
    changes = {"params": {"seconds": "x"}, "priority": 1000, "colour": "red"}
    assert set(pointers_of(rerun(caller, job.pk, changes))) == {"/params/seconds", "/priority", "/colour"}
    assert pointers_of(rerun(caller, job.pk, {"kind": "no.such"})) == ["/kind"]
    assert pointers_of(rerun(caller, job.pk, {"params": []})) == ["/params"]
    check_problem(caller.post(f"/api/jobs/{job.pk}/rerun", []), 422)
    check_problem(caller.client.post(f"/api/jobs/{job.pk}/rerun", "{", content_type="application/json"), 400)
    assert Job.objects.count() == 1


def test_another_kind_brings_its_own_limits(caller: Caller) -> None:
    caller.submit(**SUBMITTED, **LIMITS)
    old = Job.objects.get()
    names = {"/params/seconds", "/params/steps", "/params/failures"}
    assert set(pointers_of(rerun(caller, old.pk, {"kind": "test.plain"}))) == names
    assert rerun(caller, old.pk, {"kind": "test.plain", "params": {}}).status_code == 202
    new = Job.objects.get(kind="test.plain")
    assert (new.timeout_seconds, new.max_attempts, new.start_within_seconds) == (77, 2, 600)


def test_any_state_may_be_rerun_and_keeps_its_history(caller: Caller) -> None:
    job = new_job(caller.user)
    assert rerun(caller, job.pk).status_code == 202
    (running,) = lifecycle.claim("default", uuid4())
    assert rerun(caller, running.pk).status_code == 202
    lifecycle.finish([Outcome(job=running, result=1)])
    before = caller.get(f"/api/jobs/{running.pk}").json()
    assert rerun(caller, running.pk).status_code == 202
    assert caller.get(f"/api/jobs/{running.pk}").json() == before


# --- Files ------------------------------------------------------------------------------------------------------------


def test_several_files_of_a_form_are_kept_each_for_its_parameter(caller: Caller) -> None:
    response = two_files(caller)
    assert response.status_code == 202, response.content
    assert response.json()["job"]["params"] == {"word": "w", "left": "left.txt", "right": "right.txt"}
    assert kept_files() == {"left": b"l1", "right": b"r1"}


def test_a_key_stands_for_all_files_of_a_form(caller: Caller) -> None:
    first = two_files(caller, key="k", left=b"l1", right=b"r1")
    again = two_files(caller, key="k", left=b"l1", right=b"r1")
    assert (again["Idempotent-Replayed"], again.json()["jobId"]) == ("true", first.json()["jobId"])
    check_problem(two_files(caller, key="k", left=b"l1", right=b"r2"), 422)
    check_problem(two_files(caller, key="k", left=b"l1"), 422)
    assert (Job.objects.count(), Upload.objects.count()) == (1, 2)


def test_a_rerun_shares_the_files_of_the_first(caller: Caller) -> None:
    job_id = two_files(caller).json()["jobId"]
    response = rerun(caller, job_id, {"params": {"word": "other"}})
    assert response.status_code == 202, response.content
    assert response.json()["job"]["params"] == {"word": "other", "left": "left.txt", "right": "right.txt"}
    assert Upload.objects.count() == 2
    new = Job.objects.get(retried_from=job_id)
    assert {each.param for each in JobUpload.objects.filter(job=new)} == {"left", "right"}


def test_a_file_is_replaced_by_another_part_and_dropped_by_null(caller: Caller) -> None:
    job_id = two_files(caller).json()["jobId"]
    response = form(caller, f"/api/jobs/{job_id}/rerun", {"params": {"right": None}}, {"left": b"l2"})
    assert response.status_code == 202, response.content
    assert response.json()["job"]["params"] == {"word": "none", "left": "left.txt"}
    assert kept_files(job__retried_from=job_id) == {"left": b"l2"}
    assert pointers_of(rerun(caller, job_id, {"params": {"left": None}})) == ["/params/left"]
    refused = form(caller, f"/api/jobs/{job_id}/rerun", {}, {"left": b"no"})
    assert pointers_of(refused) == ["/params/left"]
    assert Upload.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_a_shared_file_stays_until_its_last_job_is_removed(caller: Caller) -> None:
    job_id = two_files(caller).json()["jobId"]
    rerun(caller, job_id)
    first, second = (lifecycle.claim("default", uuid4())[0] for _ in range(2))
    lifecycle.finish([Outcome(job=first), Outcome(job=second)])
    assert retention.remove([first.pk]) == 1
    assert Upload.objects.count() == 2
    second.refresh_from_db()
    assert second.retried_from is None
    assert retention.remove([second.pk]) == 1
    assert Upload.objects.count() == 0


# --- Who, and once ----------------------------------------------------------------------------------------------------


def test_the_owner_and_staff_rerun_and_the_new_job_is_the_owners(caller: Caller) -> None:
    team = Group.objects.create(name="team")
    mate, staff = Caller(), Caller(new_user(is_staff=True))
    for each in (caller, mate):
        each.user.groups.add(team)
    job_id = caller.submit(team="team").json()["jobId"]
    check_problem(rerun(Caller(), job_id), 404)
    check_problem(rerun(caller, uuid4()), 404)
    check_problem(rerun(mate, job_id), 403)
    assert rerun(staff, job_id).status_code == 202
    new = Job.objects.get(retried_from=job_id)
    assert (new.owner, new.team) == (caller.user, team)
    caller.user.groups.clear()
    assert pointers_of(rerun(caller, job_id)) == ["/team"]
    assert rerun(caller, job_id, {"team": None}).status_code == 202


def test_a_key_makes_one_rerun_and_is_the_askers(caller: Caller) -> None:
    staff = Caller(new_user(is_staff=True))
    job, other = new_job(caller.user), new_job(caller.user)
    first, again = rerun(caller, job.pk, key="k"), rerun(caller, job.pk, key="k")
    assert (again["Idempotent-Replayed"], again.json()["jobId"]) == ("true", first.json()["jobId"])
    check_problem(rerun(caller, job.pk, {"priority": 1}, key="k"), 422)
    check_problem(rerun(caller, other.pk, key="k"), 422)
    by_staff = rerun(staff, job.pk, key="k")
    assert "Idempotent-Replayed" not in by_staff
    assert rerun(staff, job.pk, key="k").json()["jobId"] == by_staff.json()["jobId"]
    assert Job.objects.filter(retried_from=job).count() == 2


def test_a_unique_key_is_taken_over(caller: Caller) -> None:
    job = new_job(caller.user, unique_key="u")
    standing = rerun(caller, job.pk)
    assert (standing.status_code, standing.json()["jobId"]) == (200, str(job.pk))
    check_problem(rerun(caller, job.pk, {"onConflict": "reject"}), 409)
    lifecycle.cancel(job.pk)
    again = rerun(caller, job.pk)
    assert (again.status_code, again.json()["job"]["uniqueKey"]) == (202, "u")


def test_a_standing_job_that_was_returned_under_a_key_is_returned_again(caller: Caller) -> None:
    caller.submit(uniqueKey="u")
    headers = {"Idempotency-Key": "k"}
    body = {"kind": "demo.countdown", "uniqueKey": "u", "onConflict": "return"}
    first = caller.post("/api/jobs", body, headers=headers)
    lifecycle.cancel(Job.objects.get().pk)
    again = caller.post("/api/jobs", body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert "Idempotent-Replayed" not in first
    assert again["Idempotent-Replayed"] == "true"
    assert again.json()["jobId"] == first.json()["jobId"]
    check_problem(caller.post("/api/jobs", body | {"priority": 1}, headers=headers), 422)
    assert Job.objects.count() == 1
