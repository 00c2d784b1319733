"""The polling door's answers, to good requests and to bad ones: whatever a client sends, it gets no 500."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.core.files.base import ContentFile
from django.db import connection, transaction
from django.test import Client
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver
from django.utils import timezone
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs import lifecycle
from jobs.artifact_urls import WINDOW_SECONDS, signed_url
from jobs.lifecycle import Beat, Outcome
from jobs.models import Artifact, Event, IdempotencyKey, Job, Status, Upload
from jobs.representation import job_as_dict
from tests.factories import claimed_job, new_job, new_user
from tests.jobs.api_client import Caller, check_problem, pointers_of

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Response
    from pytest_django import DjangoAssertNumQueries, Settings

pytestmark = pytest.mark.django_db

CSV = b"a,b\n1,2\n"


@pytest.fixture
def caller() -> Caller:
    return Caller()


def completed_job(caller: Caller, result: Any = None, **values: Any) -> Job:
    job = claimed_job(caller.user, **values)
    lifecycle.finish([Outcome(job=job, result=result)])
    job.refresh_from_db()
    return job


def failed_job(caller: Caller, **values: Any) -> Job:
    job = claimed_job(caller.user, max_attempts=1, **values)
    lifecycle.finish([Outcome(job=job, error={"code": "broken", "message": "It broke."}, traceback="/secret/path")])
    job.refresh_from_db()
    return job


def artifact_of(job: Job, body: bytes = b"0123456789", name: str = "out.txt", content_type: str = "text/plain") -> str:
    """Attach a file and give its signed URL."""
    artifact = Artifact(
        job=job,
        fence=job.fence,
        attempt=1,
        name=name,
        content_type=content_type,
        size=len(body),
        sha256="0" * 64,
        created_at=timezone.now(),
    )
    artifact.file.save(f"artifacts/{job.id}/{artifact.id}", ContentFile(body))
    parts = urlsplit(signed_url(artifact))
    return f"{parts.path}?{parts.query}"


def form(
    caller: Caller, job: Any, files: list[tuple[str, str]], body: bytes = CSV, headers: dict[str, str] | None = None
) -> Response:
    """Submit a form; each file is the text of its part's Content-Disposition after `form-data; `, and its type."""
    boundary, parts = "x" * 30, []
    if job is not None:
        text = job if isinstance(job, str) else json.dumps(job)
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="job"\r\n\r\n{text}\r\n'.encode())
    for disposition, content_type in files:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {content_type}\r\n\r\n"
        parts.append(head.encode() + body + b"\r\n")
    whole = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return caller.send(whole, f"multipart/form-data; boundary={boundary}", headers)


def nothing_was_made() -> bool:
    return not (Job.objects.exists() or Event.objects.exists() or Upload.objects.exists())


# --- Submitting -------------------------------------------------------------------------------------------------------


def test_a_submission_is_answered_by_a_receipt(caller: Caller) -> None:
    response = caller.submit(params={"seconds": 2}, tags=["a"], metadata={"k": "v"}, priority=5)
    assert response.status_code == 202
    receipt, job = response.json(), Job.objects.get()
    assert set(receipt) == {"jobId", "status", "statusUrl", "eventsUrl", "createdAt", "job"}
    assert (receipt["jobId"], receipt["status"]) == (str(job.pk), "ACCEPTED")
    assert response["Location"] == receipt["statusUrl"]
    assert int(response["Retry-After"]) >= 1
    assert receipt["job"]["params"] == {"seconds": 2.0, "steps": 10, "failures": 0}
    assert (job.owner_id, job.tags, job.metadata, job.priority) == (caller.user.pk, ["a"], {"k": "v"}, 5)


def test_an_unknown_kind_is_named(caller: Caller) -> None:
    assert pointers_of(caller.submit(kind="no.such")) == ["/kind"]
    assert nothing_was_made()


def test_each_fault_has_a_pointer(caller: Caller) -> None:
    response = caller.submit(
        params={"seconds": -1, "steps": "many", "colour": "red"}, priority=101, tags=["ok", 5], timeout=0
    )
    assert set(pointers_of(response)) == {
        "/params/seconds",
        "/params/steps",
        "/params/colour",
        "/priority",
        "/tags/1",
        "/timeout",
    }
    assert nothing_was_made()


def test_a_pointer_escapes_what_stands_in_a_name(caller: Caller) -> None:
    assert pointers_of(caller.submit(params={"a/b~c": 1})) == ["/params/a~1b~0c"]
    assert pointers_of(caller.submit(metadata={"a/b": "\0"})) == ["/metadata/a~1b"]


@pytest.mark.parametrize(
    "body", [" ", "{", "nope", "{'kind': 1}", '{"kind": NaN}', '{"a": Infinity}', "[" * 100_000, "\xff"]
)
def test_what_is_not_json_is_400(caller: Caller, body: str) -> None:
    check_problem(caller.send(body.encode("latin-1")), 400)
    assert nothing_was_made()


@pytest.mark.parametrize("body", ["[]", '"text"', "5", "null", "true", "[{}]"])
def test_json_that_is_no_object_is_422(caller: Caller, body: str) -> None:
    check_problem(caller.send(body), 422)


def test_a_name_that_stands_twice_is_refused(caller: Caller) -> None:
    check_problem(caller.send('{"kind": "demo.countdown", "kind": "demo.countdown"}'), 400)
    check_problem(caller.send('{"kind": "demo.countdown", "params": {"steps": 1, "steps": 2}}'), 400)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400, "9" * 5000])
def test_a_number_that_nothing_can_hold_is_refused(caller: Caller, number: str) -> None:
    response = caller.send(f'{{"kind": "demo.countdown", "metadata": {{"n": {number}}}}}')
    assert response.status_code in (400, 422)
    check_problem(response, response.status_code)


def test_json_is_nested_only_so_deep(caller: Caller) -> None:
    for depth in (60, 500, 5000):
        response = caller.send('{"kind": "demo.countdown", "metadata": {"n": ' + "[" * depth + "]" * depth + "}}")
        assert response.status_code in (400, 422), depth
        check_problem(response, response.status_code)


@pytest.mark.parametrize("bad", ["\0", "\ud800"])
@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "X"},
        {"uniqueKey": "X"},
        {"team": "X"},
        {"tags": ["X"]},
        {"metadata": {"k": "X"}},
        {"metadata": {"X": 1}},
        {"metadata": {"deep": [{"k": ["X"]}]}},
        {"params": {"seconds": "X"}},
        {"params": {"X": 1}},
        {"callbackUrl": "https://example.org/X"},
        {"callbackEvents": ["X"]},
        {"runAt": "X"},
        {"onConflict": "X"},
        {"X": 1},
    ],
)
def test_nul_and_lone_surrogates_are_refused_wherever_they_stand(
    caller: Caller, fields: dict[str, Any], bad: str
) -> None:
    text = json.dumps({"kind": "demo.countdown"} | fields).replace("X", json.dumps(bad)[1:-1])
    check_problem(caller.send(text), 422)
    assert nothing_was_made()


WRONG_TYPES: dict[str, list[Any]] = {
    "kind": [1, None, [], {}, True],
    "params": [1, None, [], "text", True],
    "callbackUrl": [1, None, [], {}, True],
    "callbackEvents": [1, None, "job.completed", {}, True, [1], [None], ["job.progress"], [[]], [{}]],
    "runAt": [1, [], {}, True, "tomorrow", "2026-13-45T00:00:00Z"],
    "priority": [None, [], {}, True, "high", 1.5, 1000],
    "maxAttempts": [[], {}, True, "many", 1.5, 0, 101],
    "timeout": [[], {}, True, "long", 1.5, 0, 10**9],
    "startWithin": [[], {}, True, "soon", 1.5, 0, 10**12],
    "deadline": [[], {}, True, "soon", 1.5, 0, 10**12],
    "uniqueKey": [1, [], {}, True, "", "k" * 256],
    "onConflict": [1, None, [], {}, True, "explode"],
    "team": [1, [], {}, True, "", "nobody's"],
    "tags": [1, None, {}, "text", True, [1], [None], [[]], [""], ["t" * 101], ["t"] * 51],
    "metadata": [1, None, [], "text", True, {"k": "v" * 20_000}],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_field_of_a_wrong_type_is_pointed_to(caller: Caller, name: str) -> None:
    for value in WRONG_TYPES[name]:
        found = pointers_of(caller.submit(**{name: value}))
        assert found, value
        assert all(each == f"/{name}" or each.startswith(f"/{name}/") for each in found), (value, found)
    assert nothing_was_made()


@pytest.mark.parametrize("value", ["NaN", "nan", "Infinity", "-inf", "1e999"])
def test_params_that_become_no_json_number_are_refused(caller: Caller, value: str) -> None:
    assert pointers_of(caller.submit(params={"seconds": value})) == ["/params/seconds"]
    assert nothing_was_made()


@pytest.mark.parametrize("run_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z"])
def test_times_at_the_end_of_the_calendar_break_nothing(caller: Caller, run_at: str) -> None:
    response = caller.submit(runAt=run_at)
    assert response.status_code in (202, 422)
    if response.status_code == 202:
        assert caller.get(f"/api/jobs/{response.json()['jobId']}").status_code == 200


def test_a_media_type_that_is_not_read_is_415(caller: Caller) -> None:
    for content_type in ("text/plain", "application/xml", "application/x-www-form-urlencoded", "nonsense"):
        check_problem(caller.send("{}", content_type), 415)


def test_an_answer_in_another_format_is_406(caller: Caller) -> None:
    check_problem(caller.get("/api/jobs", headers={"Accept": "application/xml"}), 406)


@pytest.mark.parametrize("path", ["/api/jobs", "/api/kinds", "/api/webhooks", f"/api/jobs/{uuid4()}/cancel"])
def test_a_method_that_does_not_exist_is_405(caller: Caller, path: str) -> None:
    response = caller.client.put(path)
    check_problem(response, 405)
    assert response["Allow"]


@pytest.mark.parametrize(
    "path", ["/api/nothing", "/api/jobs/nothing", "/api/jobs/%00", "/api/jobs/%ff/cancel", "/api/"]
)
def test_a_path_that_does_not_exist_is_404(caller: Caller, path: str) -> None:
    check_problem(caller.get(path), 404)


# --- Idempotency and unique keys --------------------------------------------------------------------------------------


def test_a_key_with_the_same_submission_replays_the_first_receipt(caller: Caller) -> None:
    first = caller.post("/api/jobs", {"kind": "demo.countdown", "priority": 1}, headers={"Idempotency-Key": "k"})
    (job,) = lifecycle.claim("default", uuid4())
    lifecycle.finish([Outcome(job=job, result=1)])
    again = caller.post("/api/jobs", {"priority": 1, "kind": "demo.countdown"}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert "Idempotent-Replayed" not in first
    assert again["Idempotent-Replayed"] == "true"
    assert again["Location"] == first["Location"]
    estimate = {"queuePosition": None}
    assert again.json()["job"] == first.json()["job"] | estimate
    assert again.json() | {"job": None} == first.json() | {"job": None}


def test_a_key_with_another_submission_is_422(caller: Caller) -> None:
    caller.post("/api/jobs", {"kind": "demo.countdown"}, headers={"Idempotency-Key": "k"})
    check_problem(
        caller.post("/api/jobs", {"kind": "demo.countdown", "priority": 1}, headers={"Idempotency-Key": "k"}), 422
    )
    assert Job.objects.count() == 1


def test_a_key_of_a_refused_submission_is_free(caller: Caller) -> None:
    check_problem(caller.post("/api/jobs", {"kind": "no.such"}, headers={"Idempotency-Key": "k"}), 422)
    assert caller.post("/api/jobs", {"kind": "demo.countdown"}, headers={"Idempotency-Key": "k"}).status_code == 202


@pytest.mark.parametrize("key", ["", "k" * 256, "a\0b", "a\tb", "\x7f"])
def test_a_key_that_is_none_is_400(caller: Caller, key: str) -> None:
    check_problem(caller.post("/api/jobs", {"kind": "demo.countdown"}, headers={"Idempotency-Key": key}), 400)
    assert nothing_was_made()


@pytest.mark.parametrize("key", ["k" * 255, "é", "'; DROP TABLE jobs_job; --", " spaced  out ", '"quoted"'])
def test_a_key_may_be_any_text(caller: Caller, key: str) -> None:
    answers = [caller.post("/api/jobs", {"kind": "demo.countdown"}, headers={"Idempotency-Key": key}) for _ in range(2)]
    assert [each.status_code for each in answers] == [202, 202]
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_file_is_part_of_what_a_key_stands_for(caller: Caller) -> None:
    def send(body: bytes) -> Response:
        files = [('name="file"; filename="a.csv"', "text/csv")]
        return form(caller, {"kind": "csv.report"}, files, body, headers={"Idempotency-Key": "k"})

    first, again, other = send(CSV), send(CSV), send(CSV + CSV)
    assert [each.status_code for each in (first, again, other)] == [202, 202, 422]
    assert Upload.objects.count() == 1
    assert len(stored_files()) == 1


def test_a_unique_key_returns_rejects_or_replaces(caller: Caller) -> None:
    first = caller.submit(uniqueKey="u").json()
    returned = caller.submit(uniqueKey="u")
    assert (returned.status_code, returned.json()["jobId"]) == (200, first["jobId"])
    check_problem(caller.submit(uniqueKey="u", onConflict="reject"), 409)
    replaced = caller.submit(uniqueKey="u", onConflict="replace")
    assert replaced.status_code == 202
    assert Job.objects.get(pk=first["jobId"]).status == Status.CANCELLED
    lifecycle.claim("default", uuid4())
    check_problem(caller.submit(uniqueKey="u", onConflict="replace"), 409)
    assert Job.objects.get(pk=replaced.json()["jobId"]).cancel_requested_at is None


@pytest.mark.django_db(transaction=True)
def test_sixteen_at_once_with_one_key_make_one_job() -> None:
    caller, answers, start = Caller(), [], threading.Barrier(16)

    def submit() -> None:
        start.wait(timeout=20)
        try:
            answers.append(caller.post("/api/jobs", {"kind": "demo.countdown"}, headers={"Idempotency-Key": "k"}))
        finally:
            connection.close()

    threads = [threading.Thread(target=submit) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.status_code for each in answers] == [202] * 16
    assert len({each.json()["jobId"] for each in answers}) == 1
    assert sum("Idempotent-Replayed" in each for each in answers) == 15
    assert (Job.objects.count(), Event.objects.count(), IdempotencyKey.objects.count()) == (1, 1, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("on_conflict", ["return", "replace"])
def test_submissions_with_one_unique_key_and_ends_side_by_side_get_no_500(on_conflict: str) -> None:
    caller, start = Caller(), threading.Barrier(5)
    codes: list[int] = []

    def submit() -> None:
        start.wait(timeout=20)
        try:
            codes.extend(caller.submit(uniqueKey="u", onConflict=on_conflict).status_code for _ in range(12))
        finally:
            connection.close()

    def finish() -> None:
        start.wait(timeout=20)
        try:
            for _ in range(20):
                lifecycle.finish([Outcome(job=job) for job in lifecycle.claim("default", uuid4())])
        finally:
            connection.close()

    threads = [threading.Thread(target=each) for each in (submit, submit, submit, finish, finish)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(codes) <= {200, 202, 409}


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_files(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings.MEDIA_ROOT = tmp_path_factory.mktemp("files")


def stored_files() -> list[str]:
    from pathlib import Path

    from django.conf import settings

    return [each.name for each in Path(settings.MEDIA_ROOT).rglob("*") if each.is_file()]


REPORT = {"kind": "csv.report"}
FILE = [('name="file"; filename="a.csv"', "text/csv")]


def test_a_file_is_kept_for_its_job(caller: Caller) -> None:
    response = form(caller, REPORT, FILE)
    assert response.status_code == 202, response.content
    upload = Upload.objects.get()
    assert (upload.name, upload.size) == ("a.csv", len(CSV))
    assert response.json()["job"]["params"]["file"] == "a.csv"
    assert stored_files() == [str(upload.pk)]


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\\\..\\\\boot.ini", "boot.ini"),
        ("/etc/passwd", "passwd"),
        ("C:\\\\data.csv", "data.csv"),
        ("a\x01\x1b[31mb.csv", "a[31mb.csv"),
        ("&lt;script&gt;.csv", "<script>.csv"),
        ("n" * 400 + ".csv", None),
        ("ä €.csv", "ä €.csv"),
        ("...", "..."),
        ("con", "con"),
    ],
)
def test_a_file_name_leads_nowhere(caller: Caller, filename: str, kept: str | None) -> None:
    response = form(caller, REPORT, [(f'name="file"; filename="{filename}"', "text/csv")])
    assert response.status_code == 202, response.content
    upload = Upload.objects.get()
    assert kept is None or upload.name == kept
    assert "/" not in upload.name
    assert "\\" not in upload.name
    assert len(upload.name) <= 255
    assert stored_files() == [str(upload.pk)]


@pytest.mark.parametrize(
    "disposition",
    [
        'name="file"; filename=".."',
        'name="file"; filename="."',
        'name="file"; filename=""',
        'name="file"; filename="\0"',
        "name=\"file\"; filename*=no-such-encoding''a.csv",
        "name=\"file\"; filename*=unicode_escape''%5Cud800",
        "name*=unicode_escape''%5Cud800; filename=\"a.csv\"",
        "name*=utf-16''%00%d8; filename=\"a.csv\"",
        'name="\0"; filename="a.csv"',
        'filename="a.csv"',
        'name="file',
        "name=file; filename",
        'name="a/b~c"; filename="a.csv"',
        'name="colour"',
        'name="\0"',
        "name*=unicode_escape''%5Cud800",
    ],
)
def test_an_odd_part_is_refused(caller: Caller, disposition: str) -> None:
    response = form(caller, REPORT, [(disposition, "text/csv")])
    assert response.status_code in (400, 422), (response.status_code, response.content)
    check_problem(response, response.status_code)
    assert nothing_was_made()
    assert stored_files() == []


def test_a_missing_file_is_pointed_to(caller: Caller) -> None:
    assert pointers_of(form(caller, REPORT, [])) == ["/params/file"]
    assert pointers_of(caller.submit(kind="csv.report")) == ["/params/file"]
    assert pointers_of(caller.submit(kind="csv.report", params={"file": "a.csv"})) == ["/params/file"]


def test_a_file_that_the_kind_does_not_take_is_pointed_to(caller: Caller) -> None:
    assert pointers_of(form(caller, {"kind": "demo.countdown"}, FILE)) == ["/params/file"]
    more = [*FILE, ('name="other"; filename="b.csv"', "text/csv")]
    assert pointers_of(form(caller, REPORT, more)) == ["/params/other"]
    assert nothing_was_made()
    assert stored_files() == []


def test_two_files_for_one_param_are_refused(caller: Caller) -> None:
    assert pointers_of(form(caller, REPORT, FILE * 2)) == ["/params/file"]
    assert stored_files() == []


@pytest.mark.parametrize("job", [None, "", "{", "[]", "null", '"text"', "{}"])
def test_a_form_without_a_sound_job_is_refused(caller: Caller, job: str | None) -> None:
    response = form(caller, job, FILE)
    assert response.status_code in (400, 422)
    check_problem(response, response.status_code)
    assert nothing_was_made()
    assert stored_files() == []


def test_a_form_may_carry_its_job_as_a_file(caller: Caller) -> None:
    body = json.dumps({"kind": "demo.countdown"}).encode()
    files = [('name="job"; filename="job.json"', "application/json")]
    assert form(caller, None, files, body).status_code == 202


def test_a_job_in_a_form_has_the_limit_of_json(caller: Caller) -> None:
    body = json.dumps({"kind": "demo.countdown", "metadata": {"k": "v" * 1_100_000}})
    files = [('name="job"; filename="job.json"', "application/json")]
    check_problem(form(caller, None, files, body.encode()), 413)
    check_problem(form(caller, body, []), 413)
    check_problem(caller.send(body), 413)
    assert nothing_was_made()


def test_media_types_are_read_without_regard_to_case(caller: Caller) -> None:
    assert caller.send('{"kind": "demo.countdown"}', "Application/JSON").status_code == 202


def test_a_broken_form_is_400(caller: Caller) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=é"):
        check_problem(caller.send(b"--x\r\n", content_type), 400)


# --- Who sees what ----------------------------------------------------------------------------------------------------

# The whole table is in test_authorisation.py.


def api_paths(resolver: URLResolver | None = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for each in (resolver or get_resolver()).url_patterns:
        route = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from api_paths(each, route)
        elif route.startswith("api/"):
            yield route, each


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer x", "Bearer é", "Bearer \0", "Bearer " + "x" * 9000])
def test_a_bad_token_is_401(header: str) -> None:
    response = Client(raise_request_exception=False).get("/api/jobs", headers={"Authorization": header})
    check_problem(response, 401)
    assert response["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_and_an_inactive_user_are_401(caller: Caller) -> None:
    assert caller.get("/api/jobs").status_code == 200
    caller.user.is_active = False
    caller.user.save()
    check_problem(caller.get("/api/jobs"), 401)


def test_a_session_needs_its_csrf_token() -> None:
    client = Client(raise_request_exception=False, enforce_csrf_checks=True)
    client.force_login(new_user())
    assert client.get("/api/jobs").status_code == 200
    check_problem(client.post("/api/jobs", "{}", content_type="application/json"), 403)


def test_team_mates_read_and_do_not_change(caller: Caller) -> None:
    team = Group.objects.create(name="team")
    mate = Caller()
    for each in (caller, mate):
        each.user.groups.add(team)
    job_id = caller.submit(team="team").json()["jobId"]
    assert mate.get(f"/api/jobs/{job_id}").status_code == 200
    assert mate.get(f"/api/jobs/{job_id}/events").status_code == 200
    assert [each["jobId"] for each in mate.get("/api/jobs").json()["items"]] == [job_id]
    check_problem(mate.post(f"/api/jobs/{job_id}/cancel"), 403)
    check_problem(mate.post(f"/api/jobs/{job_id}/retry"), 403)
    check_problem(mate.delete(f"/api/jobs/{job_id}"), 403)
    assert pointers_of(Caller().submit(team="team")) == ["/team"]


def test_staff_see_and_change_all_but_list_them_only_when_asked(caller: Caller) -> None:
    staff = Caller(new_user(is_staff=True))
    job_id = caller.submit().json()["jobId"]
    assert staff.get("/api/jobs").json()["items"] == []
    assert len(staff.get("/api/jobs", {"scope": "all"}).json()["items"]) == 1
    assert Caller().get("/api/jobs", {"scope": "all"}).json()["items"] == []
    assert staff.post(f"/api/jobs/{job_id}/cancel").status_code == 200


# --- Status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/jobs/{}", "/api/jobs/status/{}"])
def test_a_job_is_read_with_an_etag_until_it_changes(caller: Caller, path: str) -> None:
    job = claimed_job(caller.user)
    path = path.format(job.pk)
    first = caller.get(path)
    assert (first.status_code, first.json()["status"]) == (200, "RUNNING")
    assert int(first["Retry-After"]) >= 1
    unchanged = caller.get(path, headers={"If-None-Match": first["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged["ETag"] == first["ETag"]
    assert caller.get(path, headers={"If-None-Match": f'"other", {first["ETag"]}'}).status_code == 304
    lifecycle.beat([Beat(job=job, progress={"percent": 5.0}, version=1)])
    changed = caller.get(path, headers={"If-None-Match": first["ETag"]})
    assert (changed.status_code, changed.json()["progress"]) == (200, {"percent": 5.0})
    lifecycle.finish([Outcome(job=job, result={"n": 1})])
    done = caller.get(path)
    assert done.json()["result"] == {"n": 1}
    assert "Retry-After" not in done


def test_an_error_shows_neither_traceback_nor_path(caller: Caller) -> None:
    job = failed_job(caller)
    response = caller.get(f"/api/jobs/{job.pk}")
    assert response.json()["error"] == {"code": "broken", "message": "It broke.", "attempt": 1}
    assert b"/secret/path" not in response.content


@pytest.mark.parametrize("wait", ["0", "61", "-1", "x", "1.5", "", "٣", "\0", "99999999999999999999"])
def test_an_odd_wait_is_422(caller: Caller, wait: str) -> None:
    job = new_job(caller.user)
    assert pointers_of(caller.get(f"/api/jobs/{job.pk}", {"wait": wait})) == ["/wait"]
    assert pointers_of(caller.get("/api/events", {"wait": wait})) == ["/wait"]


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "٣", "\0", "99999999999999999999", str(2**31)])
def test_an_odd_sequence_is_422(caller: Caller, after: str) -> None:
    job = new_job(caller.user)
    assert pointers_of(caller.get(f"/api/jobs/{job.pk}/events", {"after": after})) == ["/after"]
    check_problem(caller.get(f"/api/jobs/{job.pk}/events", headers={"Last-Event-ID": after.replace("٣", "é")}), 422)


def test_events_are_read_after_a_sequence(caller: Caller) -> None:
    job = completed_job(caller, result="r")
    whole = caller.get(f"/api/jobs/{job.pk}/events").json()
    assert ([each["sequence"] for each in whole["events"]], whole["next"]) == ([1, 2, 3], 3)
    assert [each["data"]["result"] for each in whole["events"]] == [None, None, "r"]
    rest = caller.get(f"/api/jobs/{job.pk}/events", {"after": "2"}).json()
    assert rest == {"events": whole["events"][2:], "next": 3}
    assert caller.get(f"/api/jobs/{job.pk}/events", {"after": "3"}).json() == {"events": [], "next": 3}


@pytest.mark.parametrize("cursor", ["x", "é", "\0", "AAAA", "a" * 5000])
def test_a_cursor_that_is_not_ours_is_410(caller: Caller, cursor: str) -> None:
    check_problem(caller.get("/api/events", {"cursor": cursor}), 410)


@pytest.mark.django_db(transaction=True)
def test_the_feed_tells_what_the_asker_sees_from_now_on(caller: Caller) -> None:
    new_job(caller.user)
    start = caller.get("/api/events").json()
    assert start["events"] == []
    new_job(new_user())
    mine = new_job(caller.user)
    page = caller.get("/api/events", {"cursor": start["next"]}).json()
    assert [each["data"]["jobId"] for each in page["events"]] == [str(mine.pk)]
    assert caller.get("/api/events", {"cursor": page["next"]}).json()["events"] == []


# --- Lists ------------------------------------------------------------------------------------------------------------


def ids_of(response: Response) -> list[str]:
    assert response.status_code == 200, response.content
    return [each["jobId"] for each in response.json()["items"]]


def test_a_list_is_paged_without_skipping_or_repeating_while_jobs_are_added(caller: Caller) -> None:
    ids = [str(new_job(caller.user).pk) for _ in range(7)][::-1]
    seen, query = [], {"limit": "2"}
    while True:
        page = caller.get("/api/jobs", query)
        seen += ids_of(page)
        new_job(caller.user)
        if page.json()["nextCursor"] is None:
            break
        query = {"limit": "2", "cursor": page.json()["nextCursor"]}
    assert seen == ids
    assert "params" not in page.json()["items"][0]


def test_lists_are_filtered(caller: Caller) -> None:
    done = str(completed_job(caller, tags=["x"], metadata={"colour": "red"}).pk)
    failed = str(failed_job(caller, tags=["y", "z"], metadata={"colour": "blue"}).pk)
    before = timezone.now()
    pending = str(new_job(caller.user, tags=["x"], metadata={"n": 1}).pk)

    def found(**query: Any) -> set[str]:
        return set(ids_of(caller.get("/api/jobs", query)))

    assert found() == {done, failed, pending}
    assert found(status=["COMPLETED", "FAILED"]) == {done, failed}
    assert found(kind="csv.report") == set()
    assert found(kind=["csv.report", "demo.countdown"]) == {done, failed, pending}
    assert found(tag="x") == {done, pending}
    assert found(tag=["x", "z"]) == {done, failed, pending}
    assert found(errorCode="broken") == {failed}
    assert found(**{"metadata.colour": "red"}) == {done}
    assert found(**{"metadata.colour": ["red", "blue"]}) == {done, failed}
    assert found(createdAfter=before.isoformat()) == {pending}
    assert found(createdBefore=before.isoformat()) == {done, failed}
    assert found(batch=str(uuid4())) == set()


@pytest.mark.parametrize(
    "key", ["a__b", "0", "a b", 'a"b', "a'b", "a.b", "in", "contains", "a%sb", "a\\b", "$", "[0]", "é", "exact", ""]
)
def test_lists_are_filtered_by_any_metadata_key(caller: Caller, key: str) -> None:
    job = new_job(caller.user, metadata={key: "v"})
    new_job(caller.user, metadata={key: "other", "k": {key: "v"}})
    assert ids_of(caller.get("/api/jobs", {f"metadata.{key}": "v"})) == [str(job.pk)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "DONE"),
        ("status", "\0"),
        ("kind", "\0"),
        ("tag", "a\0"),
        ("batch", "x"),
        ("batch", "\0"),
        ("errorCode", "\0"),
        ("metadata.k", "\0"),
        ("metadata.\0", "v"),
        ("createdAfter", "yesterday"),
        ("createdAfter", "\0"),
        ("createdAfter", ""),
        ("createdBefore", "9999-12-31T23:59:59-23:00"),
        ("cursor", "x"),
        ("cursor", ""),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "٣"),
        ("limit", ""),
        ("scope", "mine"),
        ("colour", "red"),
        ("\0", "x"),
        ("a/b", "x"),
    ],
)
def test_a_filter_that_makes_no_sense_is_422(caller: Caller, name: str, value: str) -> None:
    assert pointers_of(caller.get("/api/jobs", {name: value}))


@pytest.mark.parametrize(
    "query", ["%ff=%ff", "status=%ff", "kind=%ed%a0%80", "metadata.%ed%a0%80=x", "tag=%ff", "=", "&&&"]
)
def test_a_query_that_is_not_text_breaks_nothing(caller: Caller, query: str) -> None:
    response = caller.client.get(f"/api/jobs?{query}")
    assert response.status_code in (200, 422)


# --- Cancel, retry, delete --------------------------------------------------------------------------------------------


def test_cancel_says_how_far_it_went(caller: Caller) -> None:
    pending = new_job(caller.user)
    response = caller.post(f"/api/jobs/{pending.pk}/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "CANCELLED")
    assert caller.post(f"/api/jobs/{pending.pk}/cancel").status_code == 200
    running = claimed_job(caller.user)
    response = caller.post(f"/api/jobs/{running.pk}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "RUNNING")
    assert response.json()["cancelRequestedAt"]
    lifecycle.finish([Outcome(job=running)])
    check_problem(caller.post(f"/api/jobs/{running.pk}/cancel"), 409)
    check_problem(caller.post(f"/api/jobs/{failed_job(caller).pk}/cancel"), 409)


def test_retry_goes_on_with_what_ended_badly(caller: Caller) -> None:
    failed = failed_job(caller)
    response = caller.post(f"/api/jobs/{failed.pk}/retry")
    assert (response.status_code, response.json()["status"], response.json()["attempt"]) == (202, "PENDING", 0)
    check_problem(caller.post(f"/api/jobs/{failed.pk}/retry"), 409)
    (claimed,) = lifecycle.claim("default", uuid4())
    check_problem(caller.post(f"/api/jobs/{failed.pk}/retry"), 409)
    lifecycle.finish([Outcome(job=claimed)])
    check_problem(caller.post(f"/api/jobs/{failed.pk}/retry"), 409)


def test_retry_is_409_while_another_holds_its_unique_key(caller: Caller) -> None:
    failed = failed_job(caller, unique_key="u")
    new_job(caller.user, unique_key="u")
    check_problem(caller.post(f"/api/jobs/{failed.pk}/retry"), 409)


def test_a_job_is_deleted_once_it_is_final_and_with_all_its_files(caller: Caller) -> None:
    response = form(caller, REPORT, FILE)
    path = f"/api/jobs/{response.json()['jobId']}"
    check_problem(caller.delete(path), 409)
    check_problem(caller.delete(f"{path}?force=true"), 409)
    (job,) = lifecycle.claim("default", uuid4())
    check_problem(caller.delete(path), 409)
    lifecycle.finish([Outcome(job=job)])
    artifact_of(job)
    assert len(stored_files()) == 2
    with transaction.atomic():
        deleted = caller.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    check_problem(caller.get(path), 404)
    assert not Event.objects.filter(job=job.pk).exists()
    assert not Upload.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_files_of_a_deleted_job_are_gone(caller: Caller) -> None:
    job_id = form(caller, REPORT, FILE).json()["jobId"]
    (job,) = lifecycle.claim("default", uuid4())
    lifecycle.finish([Outcome(job=job)])
    artifact_of(job)
    assert caller.delete(f"/api/jobs/{job_id}").status_code == 204
    assert stored_files() == []


def test_a_job_with_a_delivery_to_make_is_deleted_by_force_only(caller: Caller) -> None:
    job = completed_job(caller, callback_url="https://1.1.1.1/", callback_events=["job.completed"])
    check_problem(caller.delete(f"/api/jobs/{job.pk}"), 409)
    assert caller.delete(f"/api/jobs/{job.pk}?force=true").status_code == 204


# --- Artifacts --------------------------------------------------------------------------------------------------------


def body_of(response: Response) -> bytes:
    return response.getvalue()


def test_an_artifact_is_served_by_its_signed_url_alone(caller: Caller) -> None:
    response = Client().get(artifact_of(completed_job(caller)))
    assert (response.status_code, body_of(response)) == (200, b"0123456789")
    assert response["Content-Disposition"] == 'inline; filename="out.txt"'
    assert response["Accept-Ranges"] == "bytes"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response["Content-Security-Policy"]


@pytest.mark.parametrize("content_type", ["image/svg+xml", "text/javascript", "application/xhtml+xml", "text/xml"])
def test_what_could_run_on_our_origin_is_a_download(caller: Caller, content_type: str) -> None:
    response = Client().get(artifact_of(completed_job(caller), content_type=content_type))
    assert response["Content-Disposition"].startswith("attachment")
    assert body_of(response) == b"0123456789"


def test_a_changed_or_expired_url_is_403(caller: Caller, settings: Settings) -> None:
    job = completed_job(caller)
    url = artifact_of(job)
    other = Artifact.objects.create(
        job=job, fence=job.fence, attempt=1, name="b", content_type="a/b", size=0, sha256="", created_at=timezone.now()
    )
    path, _, query = url.partition("?")
    expires = int(query.partition("expires=")[2].partition("&")[0])
    forged = [
        path,
        f"{path}?expires={expires}",
        url[:-1] + ("A" if url[-1] != "A" else "B"),
        url.replace(str(expires), str(expires + 1)),
        url.replace(str(expires), "٣"),
        url.replace(str(expires), "9" * 5000),
        url.replace(str(Artifact.objects.get(name="out.txt").pk), str(other.pk)),
        f"{path}?expires={expires}&signature=%ff%00",
    ]
    for each in forged:
        check_problem(Client(raise_request_exception=False).get(each), 403)
    settings.ARTIFACT_URL_SECONDS = -2 * WINDOW_SECONDS
    parts = urlsplit(signed_url(Artifact.objects.get(name="out.txt")))
    check_problem(Client().get(f"{parts.path}?{parts.query}"), 403)


def test_an_artifact_whose_job_or_file_is_gone_is_404(caller: Caller) -> None:
    job = completed_job(caller)
    url = artifact_of(job)
    artifact = Artifact.objects.get()
    artifact.file.storage.delete(str(artifact.file.name))
    check_problem(Client().get(url), 404)
    check_problem(Client().get(url.replace("out.txt", "other.txt")), 404)
    caller.delete(f"/api/jobs/{job.pk}")
    check_problem(Client().get(url), 404)


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=4-", 206, "bytes 4-9/10", b"456789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=0-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=9-9", 206, "bytes 9-9/10", b"9"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=5-2", 200, None, b"0123456789"),  # invalid, so it is ignored (RFC 9110 §14.1.1)
        ("bytes=-", 200, None, b"0123456789"),
        ("bytes=a-b", 200, None, b"0123456789"),
        ("lines=0-1", 200, None, b"0123456789"),
        ("bytes=" + "9" * 100 + "-", 200, None, b"0123456789"),
    ],
)
def test_ranges_are_served(
    caller: Caller, asked: str, status: int, content_range: str | None, body: bytes | None
) -> None:
    response = Client().get(artifact_of(completed_job(caller)), headers={"Range": asked})
    assert (response.status_code, response.get("Content-Range")) == (status, content_range)
    if body is not None:
        assert body_of(response) == body
        assert response["Content-Length"] == str(len(body))


def test_a_range_of_another_version_is_the_whole(caller: Caller) -> None:
    url = artifact_of(completed_job(caller))
    response = Client().get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (response.status_code, len(body_of(response))) == (200, 10)
    head = Client().head(url)
    head.close()
    assert head.headers["Content-Length"] == "10"


# --- Whatever JSON ----------------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(["\0", "\ud800", "NaN", "inf", "demo.countdown", "csv.report", "job.completed", "2026-01-01"]),
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [*WRONG_TYPES]
submissions = st.fixed_dictionaries(
    {},
    optional={name: documents for name in FIELDS if name != "kind"}
    | {
        "kind": st.sampled_from(["demo.countdown", "demo.countdown", "csv.report"]) | documents,
        "params": st.dictionaries(st.sampled_from(["seconds", "steps", "failures", "file", "x"]), leaves) | documents,
    },
)


@given(body=submissions | documents)
@example(body={"": None})
@example(body={"kind": " demo.countdown ", "priority": "x"})
@example(body={"kind": "demo.countdown", "params": {"seconds": "NaN"}})
@example(body={"kind": "demo.countdown", "params": {"steps": 1e300}})
@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_json_is_accepted_whole_or_refused_whole(caller: Caller, body: Any) -> None:
    sid = transaction.savepoint()
    try:
        response = caller.post("/api/jobs", body)
        made = (Job.objects.count(), Event.objects.count())
        if response.status_code == 202:
            assert made == (1, 1)
            job_id = response.json()["jobId"]
            assert caller.get(f"/api/jobs/{job_id}").status_code == 200
            assert caller.get(f"/api/jobs/{job_id}/events").status_code == 200
            assert Job.objects.get().worker is None
        else:
            check_problem(response, response.status_code)
            assert response.status_code in (400, 422)
            assert made == (0, 0)
    finally:
        transaction.savepoint_rollback(sid)


# --- Cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "queries"),
    [
        ("/api/jobs/{}", 2),
        ("/api/jobs/status/{}", 2),
        ("/api/jobs/{}/events", 6),
        ("/api/jobs", 4),
        ("/api/kinds", 1),
        ("/api/webhooks", 2),
        ("/api/deliveries", 3),
        ("/api/callback-secret", 2),
    ],
)
def test_a_read_costs_a_fixed_number_of_queries(
    caller: Caller, django_assert_num_queries: DjangoAssertNumQueries, path: str, queries: int
) -> None:
    for _ in range(3):
        job = completed_job(caller, callback_url="https://1.1.1.1/", callback_events=["job.completed"])
        artifact_of(job)
    caller.post("/api/webhooks", {"url": "https://1.1.1.1/hook", "eventTypes": ["job.*"]})
    path = path.format(job.pk)
    assert caller.get("/api/callback-secret").status_code == 200  # made, and the token's use noted
    with django_assert_num_queries(queries):
        assert caller.get(path).status_code == 200


def test_a_representation_needs_no_query(caller: Caller, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    job = Job.objects.get(pk=new_job(caller.user).pk)
    with django_assert_num_queries(0):
        job_as_dict(job)


def test_a_submission_costs_a_fixed_number_of_statements(
    caller: Caller, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    caller.submit()
    with django_assert_num_queries(
        7 if connection.vendor == "postgresql" else 8
    ):  # there, one statement for job and event; the last asks for its place in line
        assert caller.submit().status_code == 202


def test_the_list_of_an_hour_ago_is_asked_in_any_zone(caller: Caller) -> None:
    job = new_job(caller.user)
    Job.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(hours=1))
    for offset in ("+00:00", "%2B00:00", "Z"):
        moment = (timezone.now() - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S")
        response = caller.client.get(f"/api/jobs?createdAfter={moment}{offset}")
        assert response.status_code in (200, 422)
