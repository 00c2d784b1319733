"""What operators see and may do in the admin of the jobs room."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from knox.models import AuthToken

from jobs import lifecycle, log, queues
from jobs.admin import read_only
from jobs.credentials import create_token, find_token, make_watch_token
from jobs.lifecycle import Beat, Outcome
from jobs.models import Artifact, Job, PausedQueue, Status, Token, Upload, Worker
from tests.factories import claimed_job, new_job, new_user

if TYPE_CHECKING:
    from django.contrib.auth.models import User

pytestmark = pytest.mark.django_db

LIST = "/admin/jobs/job/"
HOSTILE = "<script>alert('&')</script>"
INLINE_CODE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>|<style|\sstyle=|\son[a-z]+=")


def staff(*permissions: str) -> User:
    """Make a staff user with some permissions, such as `jobs.view_job`."""
    user = new_user(is_staff=True)
    for name in permissions:
        app, codename = name.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def client() -> Client:
    """Return a client that may do everything."""
    return client_of(new_user(is_staff=True, is_superuser=True))


def page_of(job: Job) -> str:
    return reverse("admin:jobs_job_change", args=[job.pk])


def read(client: Client, path: str, **query: str) -> str:
    response = client.get(path, query)
    assert response.status_code == 200, (path, response.status_code)
    return str(response.content.decode())


def failed_job(message: str = "It broke.", traceback: str = "Traceback: here", **values: Any) -> Job:
    job = claimed_job(**values)
    error = {"code": "broken", "message": message}
    lifecycle.finish([Outcome(job=job, error=error, traceback=traceback, retry=False)])
    job.refresh_from_db()
    return job


def completed_job(**values: Any) -> Job:
    job = claimed_job(**values)
    lifecycle.finish([Outcome(job=job, result={"answer": 42})])
    job.refresh_from_db()
    return job


def artifact_of(job: Job, name: str) -> Artifact:
    return Artifact.objects.create(
        job=job,
        fence=job.fence,
        attempt=1,
        name=name,
        content_type="text/html",
        size=5,
        sha256="0" * 64,
        file="artifacts/none",
        created_at=timezone.now(),
    )


def do(client: Client, action: str, *jobs: Job, **more: str) -> str:
    """Run an action on chosen jobs of the list, and read the page that follows."""
    data = {"action": action, "_selected_action": [str(job.pk) for job in jobs], **more}
    response = client.post(LIST, data, follow=True)
    assert response.status_code == 200
    return str(response.content.decode())


def status_of(job: Job) -> str:
    return Job.objects.get(pk=job.pk).status


def types_of(job: Job) -> list[str]:
    return [event.type for event in log.history(job.pk)]


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_the_list_shows_each_job_with_its_state_and_error(client: Client) -> None:
    failed, waiting = failed_job(), new_job()
    page = read(client, LIST)
    assert all(str(job.pk) in page for job in (failed, waiting))
    assert all(text in page for text in ("Failed", "Pending", "broken", "demo.countdown", waiting.owner.username))
    assert page.index(str(waiting.pk)) < page.index(str(failed.pk)), "the newest comes first"


@pytest.mark.parametrize(
    ("name", "value_of", "finds"),
    [
        ("status", lambda job: job.status, True),
        ("status", lambda job: "RUNNING", False),
        ("kind", lambda job: job.kind, True),
        ("kind", lambda job: "csv.report", False),
        ("owner", lambda job: str(job.owner_id), True),
        ("owner", lambda job: str(new_user().pk), False),
        ("created", lambda job: "hour", True),
        ("q", lambda job: str(job.pk), True),
        ("q", lambda job: job.unique_key, True),
        ("q", lambda job: "part", False),
        ("q", lambda job: str(UUID(int=0)), False),
    ],
)
def test_the_list_is_filtered_and_searched(
    client: Client, name: str, value_of: Callable[[Job], str], finds: bool
) -> None:
    job = new_job(unique_key="part of a key")
    assert (page_of(job) in read(client, LIST, **{name: value_of(job)})) is finds


def test_the_time_filter_reads_the_id(client: Client) -> None:
    recent, old = new_job(), new_job()
    moment = timezone.now() - timedelta(hours=2)
    early = UUID(int=int(moment.timestamp() * 1000) << 80 | old.pk.int & ((1 << 80) - 1))
    kept = Job.objects.get(pk=old.pk)
    kept.pk = early
    kept.save(force_insert=True)
    assert str(early) not in read(client, LIST, created="hour")
    page = read(client, LIST, created="day")
    assert str(early) in page
    assert str(recent.pk) in page


@pytest.mark.parametrize("query", [{"status": "\0"}, {"kind": "none.such"}, {"owner": "x"}, {"owner": "9" * 40}])
def test_a_filter_value_that_is_not_offered_is_refused(client: Client, query: dict[str, str]) -> None:
    assert client.get(LIST, query).headers["Location"] == f"{LIST}?e=1"


def test_columns_are_not_to_be_probed_by_url(client: Client) -> None:
    assert client.get(LIST, {"traceback__contains": "a"}).status_code == 400
    assert client.get("/admin/jobs/token/", {"digest__startswith": "a"}).status_code == 400


def test_the_count_of_a_large_list_is_capped(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_only, "MOST_COUNTED", 2)
    owner = new_user()
    for _ in range(2):
        new_job(owner)
    assert "There are more than these" not in read(client, LIST)
    new_job(owner)
    page = read(client, LIST)
    assert "There are more than these 2" in page
    assert "2 jobs" in page


def test_a_list_costs_the_same_for_one_job_and_for_many(
    client: Client, django_assert_num_queries: Callable[[int], Any]
) -> None:
    for count in (1, 5):
        for _ in range(count):
            new_job()
        with django_assert_num_queries(5):  # session, user, owners to offer, count, rows
            read(client, LIST)


def test_a_jobs_page_shows_all_that_is_known_of_it(client: Client) -> None:
    job = claimed_job(metadata={"customer": "PT Maju"})
    line = {"level": "warning", "message": "Half of it"}
    lifecycle.beat([Beat(job=job, lines=[line], moments=[timezone.now()])])
    lifecycle.finish([Outcome(job=job, error={"code": "broken", "message": "No."}, traceback="Traceback (most recent")])
    artifact_of(job, "half.html")
    page = read(client, page_of(job))
    for text in ("job.accepted", "job.started", "warning: Half of it", "broken: No.", "<pre>Traceback (most recent"):
        assert text in page
    assert "PT Maju" in page
    assert "half.html" in page
    assert "/api/artifacts/" not in page, "files of a failed job aren't served"


def test_a_completed_jobs_files_are_linked_with_a_signature(client: Client) -> None:
    job = completed_job()
    artifact = artifact_of(job, "report.html")
    page = read(client, page_of(job))
    assert re.search(rf"/api/artifacts/{artifact.pk}/report\.html\?expires=\d+&amp;signature=", page)
    assert "&quot;answer&quot;: 42" in page


def test_a_jobs_page_costs_the_same_for_few_events_and_for_many(
    client: Client, django_assert_num_queries: Callable[[int], Any]
) -> None:
    job = claimed_job()
    for count in (1, 20):
        lines = [{"level": "info", "message": "line"}] * count
        lifecycle.beat([Beat(job=job, lines=lines, moments=[timezone.now()] * count)])
        artifact_of(job, f"{count}.html")
        with django_assert_num_queries(7):  # session, user, job, owner, events, artifacts, deliveries
            read(client, page_of(job))


def test_only_the_newest_events_are_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_only, "MOST_IN_TABLE", 2)
    page = read(client, page_of(completed_job()))
    assert "job.completed" in page
    assert "job.started" in page
    assert "job.accepted" not in page


def test_hostile_values_are_escaped(client: Client) -> None:
    job = claimed_job(params={"seconds": 0, "note": HOSTILE}, metadata={"m": HOSTILE}, tags=[HOSTILE])
    lines = [{"level": "info", "message": HOSTILE}]
    lifecycle.beat([Beat(job=job, lines=lines, moments=[timezone.now()])])
    lifecycle.finish([Outcome(job=job, error={"code": HOSTILE, "message": HOSTILE}, traceback=HOSTILE, retry=False)])
    artifact_of(job, HOSTILE)
    for page in (read(client, page_of(job)), read(client, LIST)):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


def test_no_page_needs_inline_code_which_the_policy_forbids(client: Client) -> None:
    job = failed_job()
    create_token(job.owner, "laptop")
    key = Token.objects.get().token_key
    for path in (LIST, page_of(job), f"{page_of(job)[:-7]}delete/", f"/admin/jobs/token/{key}/delete/"):
        response = client.get(path)
        assert response.status_code == 200
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert INLINE_CODE.search(response.content.decode()) is None, path


# --- Acting -----------------------------------------------------------------------------------------------------------


def test_cancelling_chosen_jobs_ends_the_waiting_asks_the_running_and_refuses_the_finished(client: Client) -> None:
    done, running, waiting = completed_job(), claimed_job(), new_job()
    page = do(client, "cancel_selected", done, running, waiting)
    assert (status_of(done), status_of(running), status_of(waiting)) == ("COMPLETED", "RUNNING", "CANCELLED")
    assert Job.objects.get(pk=running.pk).cancel_requested_at is not None
    assert types_of(waiting) == ["job.accepted", "job.cancelled"]
    assert "Cancelled: 1 job." in page
    assert "Asked to stop: 1 job." in page
    assert "The job is COMPLETED already" in page


def test_retrying_chosen_jobs_opens_the_failed_and_names_who_asked() -> None:
    user = new_user(is_staff=True, is_superuser=True)
    failed, waiting = failed_job(), new_job()
    page = do(client_of(user), "retry_selected", failed, waiting)
    assert status_of(failed) == Status.PENDING
    last = log.history(failed.pk)[-1]
    assert (last.type, last.data["by"]) == ("job.retrying", user.username)
    assert "Queued again: 1 job." in page
    assert "only a failed or cancelled one can be retried" in page
    assert LogEntry.objects.get(object_id=str(failed.pk)).change_message == "Queued again."


def test_retrying_a_job_whose_unique_key_is_taken_names_the_other(client: Client) -> None:
    owner = new_user()
    failed = failed_job(owner=owner, unique_key="monthly")
    standing = new_job(owner, unique_key="monthly")
    page = do(client, "retry_selected", failed)
    assert status_of(failed) == Status.FAILED
    assert f"It is {standing.pk}." in page


def test_one_job_is_cancelled_and_retried_from_its_page(client: Client) -> None:
    job = new_job()
    assert "Cancel this job" in read(client, page_of(job))
    client.post(reverse("admin:jobs_job_cancel", args=[job.pk]))
    assert status_of(job) == Status.CANCELLED
    page = read(client, page_of(job))
    assert "Cancel this job" not in page
    assert "Retry this job" in page
    response = client.post(reverse("admin:jobs_job_retry", args=[job.pk]))
    assert response.headers["Location"] == page_of(job)
    assert types_of(job) == ["job.accepted", "job.cancelled", "job.retrying"]


def test_acting_needs_a_post_with_a_csrf_token() -> None:
    user = new_user(is_staff=True, is_superuser=True)
    job = new_job()
    url = reverse("admin:jobs_job_cancel", args=[job.pk])
    assert client_of(user).get(url).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    assert strict.post(url).status_code == 403
    assert status_of(job) == Status.PENDING


def test_a_forged_post_to_the_form_changes_nothing(client: Client) -> None:
    job = new_job()
    response = client.post(page_of(job), {"status": "COMPLETED", "state": "COMPLETED", "kind": "other", "_save": "1"})
    assert response.status_code == 403
    kept = Job.objects.get(pk=job.pk)
    assert (kept.status, kept.kind, kept.version) == (job.status, job.kind, job.version)
    assert client.post(f"{LIST}add/", {"kind": "demo.countdown"}).status_code == 403


def test_who_may_only_view_is_offered_nothing_and_can_do_nothing() -> None:
    client, job, done = client_of(staff("jobs.view_job")), new_job(), new_job()
    lifecycle.cancel(done.pk)
    page = read(client, page_of(job))
    assert "job.accepted" in page
    for text in ("Cancel this job", "Retry this job", "deletelink"):
        assert text not in page + read(client, page_of(done))
    assert "cancel_selected" not in read(client, LIST)
    do(client, "cancel_selected", job)
    do(client, "delete_selected", done, post="yes")
    for url in ("admin:jobs_job_cancel", "admin:jobs_job_retry", "admin:jobs_job_delete"):
        assert client.post(reverse(url, args=[done.pk]), {"post": "yes"}).status_code == 403
    assert (status_of(job), status_of(done)) == ("PENDING", "CANCELLED")


def test_who_may_change_jobs_acts_but_does_not_delete() -> None:
    client, job = client_of(staff("jobs.view_job", "jobs.change_job")), new_job()
    do(client, "cancel_selected", job)
    assert status_of(job) == Status.CANCELLED
    assert client.post(reverse("admin:jobs_job_delete", args=[job.pk]), {"post": "yes"}).status_code == 403
    assert status_of(job) == Status.CANCELLED


@pytest.mark.parametrize("is_signed_in", [True, False])
def test_who_is_not_staff_gets_nothing(is_signed_in: bool) -> None:
    job = new_job()
    client = client_of(job.owner) if is_signed_in else Client()
    for path in (LIST, page_of(job), "/admin/jobs/token/"):
        response = client.get(path)
        assert response.status_code == 302
        assert response.headers["Location"].startswith("/admin/login/")
    assert client.post(reverse("admin:jobs_job_cancel", args=[job.pk])).status_code == 302
    assert status_of(job) == Status.PENDING


def test_a_running_job_is_not_deleted(client: Client) -> None:
    job = claimed_job()
    assert "deletelink" not in read(client, page_of(job))
    assert client.post(reverse("admin:jobs_job_delete", args=[job.pk]), {"post": "yes"}).status_code == 403
    assert "1 not finished and left alone" in do(client, "delete_selected", job, post="yes")
    assert status_of(job) == Status.RUNNING


def test_finished_jobs_are_deleted_with_all_that_is_theirs_once_it_is_confirmed(client: Client) -> None:
    one, other, running = failed_job(), completed_job(), claimed_job()
    artifact_of(other, "report.html")
    assert "Are you sure" in do(client, "delete_selected", one, other, running)
    assert Job.objects.count() == 3
    assert "Successfully deleted 2 jobs" in do(client, "delete_selected", one, other, running, post="yes")
    assert list(Job.objects.all()) == [running]
    assert (log.history(one.pk), Artifact.objects.count()) == ([], 0)


def test_one_finished_job_is_deleted_from_its_page(client: Client) -> None:
    job = failed_job()
    url = reverse("admin:jobs_job_delete", args=[job.pk])
    assert "with its events, files and deliveries" in read(client, url)
    client.post(url, {"post": "yes"})
    assert not Job.objects.exists()


# --- Workers, uploads, tokens -----------------------------------------------------------------------------------------


def test_workers_and_uploads_are_seen_and_not_changed(client: Client) -> None:
    now = timezone.now()
    worker = Worker.objects.create(
        id=UUID(int=7), host="machine", pid=42, queues=["default"], slots=2, started_at=now, seen_at=now
    )
    upload = Upload.objects.create(
        owner=new_user(), name=HOSTILE, size=5, sha256="0" * 64, file="uploads/x", created_at=now
    )
    assert "machine:42" in read(client, "/admin/jobs/worker/")
    assert "&lt;script&gt;" in read(client, "/admin/jobs/upload/")
    for row in (worker, upload):
        path = reverse(f"admin:jobs_{row._meta.model_name}_change", args=[row.pk])
        assert INLINE_CODE.search(read(client, path)) is None
        assert client.post(path, {"name": "other", "host": "other"}).status_code == 403
        assert client.post(path.replace("change", "delete"), {"post": "yes"}).status_code == 403


def test_a_token_is_listed_and_revoked_and_its_digest_never_shown(client: Client) -> None:
    user = new_user()
    text = create_token(user, "laptop")
    create_token(user, "phone")
    token = Token.objects.get(name="laptop")
    url = reverse("admin:jobs_token_delete", args=[token.token_key])
    pages = [read(client, "/admin/jobs/token/"), read(client, url)]
    assert "laptop" in pages[0]
    assert url in pages[0]
    client.post(url, {"post": "yes"})
    pages += [read(client, "/admin/jobs/token/"), read(client, "/admin/")]
    assert [each.name for each in Token.objects.all()] == ["phone"]
    assert not any(token.pk in page or text in page for page in pages)
    assert LogEntry.objects.get().object_id == token.token_key


def test_a_token_is_made_and_shown_once(client: Client) -> None:
    user = new_user()
    form = {"user": user.pk, "name": "laptop", "scopes": ["read"], "days": "30"}
    assert 'name="scopes"' in read(client, "/admin/jobs/token/add/")
    made = client.post("/admin/jobs/token/add/", form)
    token = Token.objects.get()
    assert (token.user, token.name, token.scopes) == (user, "laptop", ["read"])
    assert timedelta(days=29) < token.expiry - timezone.now() <= timedelta(days=30)
    texts = re.findall(r"<code>([0-9a-f]{64})</code>", made.content.decode())
    assert [find_token(text) for text in texts] == [token]
    assert "no-store" in made["Cache-Control"]
    assert not any(text in read(client, path) for text in texts for path in ("/admin/jobs/token/", "/admin/"))
    assert LogEntry.objects.get().object_id == token.token_key


def test_a_wrong_wish_for_a_token_makes_none(client: Client) -> None:
    for form in ({}, {"user": new_user().pk, "name": "x", "scopes": ["watch"]}, {"user": 0, "name": "x"}):
        assert "errorlist" in client.post("/admin/jobs/token/add/", form).content.decode()
    assert not Token.objects.exists()


def test_who_is_no_superuser_makes_tokens_for_oneself_alone() -> None:
    maker, other = staff("jobs.view_token", "jobs.add_token"), new_user()
    client = client_of(maker)
    client.post("/admin/jobs/token/add/", {"user": other.pk, "name": "x"})
    assert not Token.objects.exists()
    client.post("/admin/jobs/token/add/", {"user": maker.pk, "name": "x"})
    assert Token.objects.get().user == maker
    assert client_of(staff("jobs.view_token")).post("/admin/jobs/token/add/", {}).status_code == 403


def test_tokens_are_not_changed_here_and_watch_tokens_not_seen(client: Client) -> None:
    user = new_user()
    create_token(user, "laptop")
    token = Token.objects.get()
    make_watch_token(user, expires_in=timedelta(minutes=1), job_id=None, parent=token, session=None)
    for ident in (token.token_key, token.pk):
        assert client.get(f"/admin/jobs/token/{ident}/change/").headers["Location"] == "/admin/jobs/token/"
        assert client.get(f"/admin/jobs/token/{ident}/history/").headers["Location"] == "/admin/jobs/token/"
    assert "watch token" not in read(client, "/admin/jobs/token/")
    assert not admin.site.is_registered(AuthToken)


def test_who_may_only_view_tokens_does_not_revoke_them() -> None:
    create_token(new_user(), "laptop")
    client, token = client_of(staff("jobs.view_token")), Token.objects.get()
    assert "deletelink" not in read(client, "/admin/jobs/token/")
    assert client.post(reverse("admin:jobs_token_delete", args=[token.token_key]), {"post": "yes"}).status_code == 403
    assert Token.objects.exists()


# --- Queues -----------------------------------------------------------------------------------------------------------

QUEUES = "/admin/jobs/pausedqueue/"


def claimed(queue: str = "default") -> list[UUID]:
    return [job.pk for job in lifecycle.claim(queue, UUID(int=9))]


def test_a_queue_is_paused_and_resumed_and_it_is_known_by_whom() -> None:
    user = new_user(is_staff=True, is_superuser=True)
    client, job = client_of(user), new_job()
    client.post(f"{QUEUES}add/", {"name": "default"})
    assert claimed() == []
    assert PausedQueue.objects.get().paused_by == user.username
    page = read(client, QUEUES)
    assert user.username in page
    assert "Resume selected queues" in page
    assert "Delete selected" not in page
    response = client.post(QUEUES, {"action": "delete_selected", "_selected_action": ["default"]}, follow=True)
    assert "Resumed: default." in response.content.decode()
    assert claimed() == [job.pk]
    told = LogEntry.objects.order_by("pk").values_list("object_id", "action_flag", "user")
    assert list(told) == [("default", ADDITION, user.pk), ("default", DELETION, user.pk)]


def test_only_queues_of_kinds_are_offered_and_none_twice(client: Client) -> None:
    assert 'value="default"' in read(client, f"{QUEUES}add/")
    client.post(f"{QUEUES}add/", {"name": "defualt"})
    assert not PausedQueue.objects.exists()
    queues.pause("default", by="siti")
    assert 'value="default"' not in read(client, f"{QUEUES}add/")
    client.post(f"{QUEUES}add/", {"name": "default"})
    assert PausedQueue.objects.get().paused_by == "siti"


def test_a_paused_queue_is_seen_and_resumed_on_its_page_and_not_changed(client: Client) -> None:
    job = new_job()
    queues.pause("default", by="siti")
    path = f"{QUEUES}default/change/"
    page = read(client, path)
    assert "siti" in page
    assert INLINE_CODE.search(page) is None
    assert client.post(path, {"name": "other", "paused_by": "me"}).status_code == 403
    assert "will be claimed again" in read(client, f"{QUEUES}default/delete/")
    client.post(f"{QUEUES}default/delete/", {"post": "yes"})
    assert claimed() == [job.pk]


def test_each_permission_allows_its_own_of_pausing_and_resuming() -> None:
    view, pause, resume = (
        client_of(staff("jobs.view_pausedqueue", *more))
        for more in ([], ["jobs.add_pausedqueue"], ["jobs.delete_pausedqueue"])
    )
    add, choice = f"{QUEUES}add/", {"action": "delete_selected", "_selected_action": ["default"]}
    for client in (view, resume):
        assert client.post(add, {"name": "default"}).status_code == 403
    pause.post(add, {"name": "default"})
    for client in (view, pause):
        client.post(QUEUES, choice)
        assert client.post(f"{QUEUES}default/delete/", {"post": "yes"}).status_code == 403
        assert "Resume selected queues" not in read(client, QUEUES)
    assert PausedQueue.objects.exists()
    resume.post(QUEUES, choice)
    assert not PausedQueue.objects.exists()
