"""The pages without script: who may see them, what they show, and what their forms do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from jobs import lifecycle
from jobs.lifecycle import Beat, Outcome
from jobs.models import Artifact, Job, Status, Upload
from tests.factories import claimed_job, new_job, new_user

pytestmark = pytest.mark.django_db

PASSWORD = "a long and quiet evening"
HOSTILE = '"><script>alert(1)</script>\u202e${7*7}{{7*7}}'
Response = Any  # of Django's test client; the stubs give it a private name
QueryCounter = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(autouse=True)
def _files_of_the_test(tmp_path: Any, settings: Any) -> None:
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def user() -> User:
    return new_user()


@pytest.fixture
def browser(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


def completed_job(owner: User) -> Job:
    """Make a job that is completed, with a report."""
    job = claimed_job(owner, tags=["monthly"])
    artifact = Artifact(
        job=job, fence=job.fence, attempt=1, name="report.html", content_type="text/html", size=2, sha256="0" * 64
    )
    artifact.is_main, artifact.created_at = True, timezone.now()
    artifact.file.save("report.html", ContentFile(b"hi"))
    lifecycle.finish([Outcome(job=job, result={"rows": 3000, "label": HOSTILE})])
    return Job.objects.get(pk=job.pk)


def failed_job(owner: User, message: str = "The file is empty.") -> Job:
    """Make a job whose only attempt failed."""
    job = claimed_job(owner, max_attempts=1)
    lifecycle.finish([Outcome(job=job, error={"code": "empty", "message": message})])
    return Job.objects.get(pk=job.pk)


def running_job(owner: User) -> Job:
    """Make a job that is at 42%."""
    job = claimed_job(owner)
    progress = {"percent": 42.9, "message": "Adding up rows", "current": 420_000, "total": 1_000_000}
    lifecycle.beat([Beat(job=job, progress=progress)])
    return Job.objects.get(pk=job.pk)


class Page(HTMLParser):
    """What a page is made of: its elements with their attributes, and its text."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._scripts: list[str] = []
        self.feed(response.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Find the elements of a name that have these attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


def every_page(user: User, browser: Client) -> Iterator[Response]:
    """Give each page in each of its states."""
    yield Client().get(reverse("signin"))
    yield Client().post(reverse("signin"), {"username": "nobody", "password": "x"})
    yield browser.get("/")
    waiting, running, completed, failed = (
        new_job(user, run_at=timezone.now() + timedelta(days=2)),
        running_job(user),
        completed_job(user),
        failed_job(user, HOSTILE),
    )
    retrying = claimed_job(user)
    lifecycle.finish([Outcome(job=retrying, error={"code": "away", "message": HOSTILE})])
    cancelled = new_job(user)
    lifecycle.cancel(cancelled.pk)
    for job in (waiting, running, completed, failed, retrying, cancelled):
        yield browser.get(reverse("job", args=[job.pk]))
    yield browser.get("/")
    yield browser.get("/", {"status": "FAILED", "kind": "demo.countdown", "tag": HOSTILE})
    yield browser.get(
        reverse("job-rows"), {"id": [str(job.pk) for job in (waiting, running, completed, failed, retrying)]}
    )
    yield browser.get(reverse("start"))
    yield browser.get(reverse("start"), {"kind": "demo.countdown"})
    yield browser.get(reverse("start"), {"from": str(completed.pk)})
    yield browser.post(reverse("start"), {"kind": "demo.countdown", "params.seconds": HOSTILE, "tags": HOSTILE})
    yield browser.get("/there/is/nothing")


# --- Who may see them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/start", "/rows", f"/jobs/{uuid4()}"])
def test_a_stranger_is_sent_to_the_sign_in(client: Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response["Location"]) == (302, f"/sign-in?next={path}")


@pytest.mark.parametrize("name", ["cancel", "retry", "delete"])
def test_a_stranger_changes_nothing(client: Client, user: User, name: str) -> None:
    job = new_job(user)
    assert client.post(reverse(name, args=[job.pk])).status_code == 302
    assert Job.objects.get(pk=job.pk).status == Status.PENDING


def test_signing_in_leads_to_the_jobs_and_out_again(client: Client, user: User) -> None:
    user.set_password(PASSWORD)
    user.save()
    credentials = {"username": user.username, "password": PASSWORD}
    assert client.post("/sign-in", credentials)["Location"] == "/"
    assert client.get("/").status_code == 200
    assert client.get("/sign-out").status_code == 405
    assert client.post("/sign-out")["Location"] == "/sign-in"
    assert client.get("/").status_code == 302


def test_a_wrong_password_gets_one_error_and_keeps_the_name(client: Client, user: User) -> None:
    page = Page(client.post("/sign-in", {"username": user.username, "password": "wrong"}))
    assert "That name and password do not match." in page.text
    assert page.all("input", name="username", value=user.username)
    assert not page.all("input", value="wrong")


def test_the_sign_in_tells_where_the_first_password_is(client: Client) -> None:
    assert "printed once, in the terminal" in Page(client.get("/sign-in")).text


def test_anothers_job_is_not_there(browser: Client) -> None:
    job = new_job(new_user())
    assert browser.get(reverse("job", args=[job.pk])).status_code == 404
    for name in ("cancel", "retry", "delete"):
        assert browser.post(reverse(name, args=[job.pk])).status_code == 404
    assert browser.get("/start", {"from": str(job.pk)}).status_code == 404
    assert str(job.pk) not in browser.get("/rows", {"id": str(job.pk)}).content.decode()
    assert Job.objects.get(pk=job.pk).status == Status.PENDING


def test_a_team_mate_reads_and_does_not_change(user: User, browser: Client) -> None:
    team = Group.objects.create(name="desk")
    user.groups.add(team)
    job = new_job(new_user(), team_id=team.pk)
    page = Page(browser.get(reverse("job", args=[job.pk])))
    assert "desk" in page.text
    assert not page.all("form", action=reverse("cancel", args=[job.pk]))
    answer = browser.post(reverse("cancel", args=[job.pk]), follow=True)
    assert "Only the job&#x27;s owner and staff may do this." in answer.content.decode()
    assert Job.objects.get(pk=job.pk).status == Status.PENDING


def test_only_staff_are_shown_the_way_to_the_admin(browser: Client) -> None:
    staff = Client()
    staff.force_login(new_user(is_staff=True))
    assert Page(staff.get("/")).all("a", href="/admin/")
    assert not Page(browser.get("/")).all("a", href="/admin/")


# --- What they are made of --------------------------------------------------------------------------------------------


def test_no_page_has_a_script_or_a_style_of_its_own(user: User, browser: Client) -> None:
    for response in every_page(user, browser):
        page = Page(response)
        assert not page.all("style")
        for tag, attributes in page.elements:
            assert "style" not in attributes, (tag, attributes)
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            assert not (attributes.get("href") or "").startswith("javascript:")
        for script in page.all("script"):
            assert script.get("type") == "application/json" or str(script.get("src")).startswith("/static/"), script


def test_no_page_asks_another_host_for_anything(user: User, browser: Client) -> None:
    for response in every_page(user, browser):
        for tag, attributes in Page(response).elements:
            for name in ("src", "href", "action"):
                value = attributes.get(name) or ""
                assert "//" not in value.partition("?")[0], (tag, name, value)


def test_every_page_has_the_strict_policy(user: User, browser: Client) -> None:
    for response in every_page(user, browser):
        policy = response["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "style-src 'self'" in policy
        assert "unsafe" not in policy


def test_every_page_has_unique_ids_and_labels_that_lead_somewhere(user: User, browser: Client) -> None:
    for response in every_page(user, browser):
        page = Page(response)
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for name in ("for", "aria-labelledby", "aria-describedby", "commandfor"):
            for _, attributes in page.elements:
                for target in (attributes.get(name) or "").split():
                    assert target in ids, (name, target)


def test_hostile_names_params_and_errors_are_text(user: User, browser: Client) -> None:
    for response in every_page(user, browser):
        assert "<script>alert" not in response.content.decode()
    upload = Upload.objects.create(
        owner=user, name=HOSTILE, size=1, sha256="0" * 64, file="none", created_at=timezone.now()
    )
    job = new_job(user, params={"file": HOSTILE, HOSTILE: [HOSTILE]}, tags=[HOSTILE], uploads={"file": upload})
    for path in ("/", reverse("job", args=[job.pk]), f"/start?from={job.pk}"):
        response = browser.get(path)
        assert "<script>alert" not in response.content.decode()
        assert HOSTILE in Page(response).text


def test_the_page_of_a_fault_stands_alone(rf: Any) -> None:
    from config.urls import handler500

    response = handler500(rf.get("/"))
    assert response.status_code == 500
    assert "Something went wrong here." in response.content.decode()


def test_a_form_without_its_token_is_refused_by_a_page(user: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    response = browser.post("/preferences", {"theme": "dark"})
    assert response.status_code == 403
    assert "Nothing was changed." in Page(response).text


# --- My jobs ----------------------------------------------------------------------------------------------------------


def test_nothing_yet_is_a_sentence_a_button_and_a_command(browser: Client) -> None:
    page = Page(browser.get("/"))
    assert "No news yet." in page.text
    assert page.all("a", href="/start", class_="btn main")
    assert f"curl -X POST {settings.PUBLIC_URL}/api/jobs" in page.text


def test_each_row_has_its_state_its_news_and_its_one_action(user: User, browser: Client) -> None:
    running, completed, failed = running_job(user), completed_job(user), failed_job(user)
    retrying = claimed_job(user)
    lifecycle.finish([Outcome(job=retrying, error={"code": "away", "message": "The server was away."})])
    page = Page(browser.get("/"))
    rows = {str(each["data-job"]) for each in page.all("li") if "data-job" in each}
    assert rows == {str(job.pk) for job in (running, completed, failed, retrying)}
    assert page.all("progress", value="42")
    for text in ("Adding up rows", "rows 3,000", "report.html", "The file is empty.", "Retrying", "Try 2 of 3"):
        assert text in page.text
    assert page.all("form", action=reverse("cancel", args=[running.pk]))
    assert page.all("form", action=reverse("retry", args=[failed.pk]))
    assert not page.all("form", action=reverse("cancel", args=[completed.pk]))


def test_the_tabs_count_by_status_and_filter(user: User, browser: Client) -> None:
    failed_job(user)
    pending = new_job(user)
    page = Page(browser.get("/", {"status": "FAILED"}))
    assert "Failed 1" in " ".join(page.text.split())
    assert str(pending.pk) not in str(page.elements)
    assert page.all("a", aria_current="page", href="?status=FAILED")


def test_filters_by_kind_tag_and_dates_narrow_the_list(user: User, browser: Client) -> None:
    tagged = new_job(user, tags=["monthly"])
    other = new_job(user)
    today = timezone.now().date().isoformat()

    def shown(**query: str) -> set[str]:
        page = Page(browser.get("/", query))
        return {str(each["data-job"]) for each in page.all("li") if "data-job" in each}

    both = {str(tagged.pk), str(other.pk)}
    assert shown(tag="monthly", kind="", status="") == {str(tagged.pk)}
    assert shown(kind="csv.report") == set()
    assert shown(createdAfter=today, createdBefore=today) == both
    assert shown(createdBefore="2020-01-01") == set()


@pytest.mark.parametrize(
    "query", [{"status": "WRONG"}, {"createdAfter": "soon"}, {"createdBefore": "9999-12-31"}, {"cursor": "x"}]
)
def test_a_filter_that_cannot_be_read_is_told_and_left_out(browser: Client, query: dict[str, str]) -> None:
    response = browser.get("/", query, follow=True)
    assert (response.status_code, response.redirect_chain) == (200, [("/", 302)])
    assert "can&#x27;t be read" in response.content.decode()


def test_older_jobs_are_a_page_further(user: User, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.api.listing.PAGE", 2)
    ids = [str(new_job(user).pk) for _ in range(3)]
    first = Page(browser.get("/"))
    (older,) = first.all("a", rel="next")
    second = Page(browser.get(f"/{older['href']}"))
    assert [each["data-job"] for each in first.all("li") if "data-job" in each] == [ids[2], ids[1]]
    assert [each["data-job"] for each in second.all("li") if "data-job" in each] == [ids[0]]
    assert not second.all("a", rel="next")


def test_counts_stop_at_a_limit_and_say_so(user: User, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.pages.counts.MOST_COUNTED", 2)
    for _ in range(3):
        new_job(user)
    text = " ".join(Page(browser.get("/")).text.split())
    assert "All 2+" in text


def test_rows_are_given_again_by_their_ids(user: User, browser: Client) -> None:
    jobs = [new_job(user) for _ in range(3)]
    page = Page(browser.get("/rows", {"id": [str(jobs[0].pk), "none", str(uuid4())], "query": "status=PENDING"}))
    assert [each["data-job"] for each in page.all("li")] == [str(jobs[0].pk)]
    assert page.all("a", aria_current="page", href="?status=PENDING")


def test_the_list_costs_the_same_queries_however_long_it_is(
    user: User, browser: Client, django_assert_num_queries: QueryCounter
) -> None:
    completed_job(user)
    running_job(user)
    browser.get("/")  # the log's epoch is read once in a process
    for _ in range(5):
        new_job(user)
        # Session, user, teams, position of the log, jobs, artifacts, uploads, counts.
        with django_assert_num_queries(8):
            browser.get("/")


# --- Start a job ------------------------------------------------------------------------------------------------------


def test_the_form_is_made_of_the_kinds_params(browser: Client) -> None:
    page = Page(browser.get("/start"))
    assert page.all("input", type="file", name="params.file")
    assert page.all("select", name="params.delimiter")
    assert page.all("a", href="?kind=csv.report", aria_current="true")
    assert page.all("a", href="?kind=demo.countdown")
    assert page.all("input", name="callbackUrl")
    page = Page(browser.get("/start", {"kind": "demo.countdown"}))
    assert page.all("input", name="params.seconds", value="5", inputmode="decimal")
    assert page.all("input", name="params.steps", value="10", inputmode="numeric")
    assert browser.get("/start", {"kind": "no.such"}).status_code == 404


def test_a_file_sent_by_the_form_makes_a_job(user: User, browser: Client) -> None:
    response = browser.post(
        "/start",
        {
            "kind": "csv.report",
            "idempotencyKey": "k",
            "params.file": SimpleUploadedFile("sales.csv", b"a;b\n1;2\n"),
            "params.delimiter": ";",
            "params.encoding": "",
            "tags": "monthly, desk ,",
            "priority": "7",
            "runAt": "2030-01-02T03:04",
        },
    )
    job = Job.objects.get()
    assert response["Location"] == reverse("job", args=[job.pk])
    assert (job.owner, job.kind, job.priority, job.tags) == (user, "csv.report", 7, ["monthly", "desk"])
    assert job.params["file"] == "sales.csv"
    assert job.params["delimiter"] == ";"
    assert job.run_at is not None
    assert job.run_at.isoformat() == "2030-01-02T03:04:00+00:00"
    with job.uploads.get().file.open() as file:
        assert file.read() == b"a;b\n1;2\n"
    assert "sales.csv, 8 B" in Page(browser.get(response["Location"])).text


def test_a_form_sent_twice_makes_one_job(browser: Client) -> None:
    values = {"kind": "demo.countdown", "idempotencyKey": "k", "params.seconds": "1.5", "params.steps": "2"}
    first, second = browser.post("/start", values), browser.post("/start", values)
    assert first["Location"] == second["Location"]
    assert Job.objects.get().params == {"seconds": 1.5, "steps": 2, "failures": 0}


def test_a_used_form_with_other_values_asks_and_gets_a_new_key(browser: Client) -> None:
    values = {"kind": "demo.countdown", "idempotencyKey": "k", "params.steps": "2"}
    browser.post("/start", values)
    response = browser.post("/start", values | {"params.steps": "3"})
    assert response.status_code == 409
    page = Page(response)
    assert "started a job already" in page.text
    assert page.all("input", name="params.steps", value="3")
    (key,) = page.all("input", name="idempotencyKey")
    assert key["value"] != "k"
    assert Job.objects.count() == 1


def test_faults_stand_on_their_fields_and_in_a_summary_of_links(browser: Client) -> None:
    response = browser.post(
        "/start", {"kind": "demo.countdown", "params.seconds": "-1", "params.steps": "many", "priority": "1000"}
    )
    assert response.status_code == 422
    page = Page(response)
    assert "3 things need a change" in page.text
    for name in ("params.seconds", "params.steps", "priority"):
        (field,) = page.all("input", name=name)
        assert field["aria-invalid"] == "true"
        assert f"{field['id']}-e" in str(field["aria-describedby"]).split()
        assert page.all("a", href=f"#{field['id']}")
    assert page.all("input", name="params.steps", value="many")
    assert "open" in page.all("details", class_="fold")[0]
    assert not Job.objects.exists()


def test_a_missing_file_is_a_fault_of_its_field(browser: Client) -> None:
    page = Page(browser.post("/start", {"kind": "csv.report"}))
    assert page.all("input", name="params.file", aria_invalid="true")
    assert "One thing needs a change" in page.text


@pytest.mark.parametrize(
    "values",
    [
        {"params.steps": "1e999"},
        {"params.steps": "\0"},
        {"tags": "a\0b"},
        {"tags": ",".join("x" * 200 for _ in range(60))},
        {"callbackUrl": "ftp://example.com/"},
        {"runAt": "tomorrow"},
        {"maxAttempts": "0"},
        {"idempotencyKey": "x" * 300},
    ],
)
def test_bad_values_get_the_form_back_and_no_fault_of_ours(browser: Client, values: dict[str, str]) -> None:
    response = browser.post("/start", {"kind": "demo.countdown"} | values)
    assert response.status_code in (400, 422)
    assert Page(response).all("div", id="faults")
    assert not Job.objects.exists()


def test_one_may_share_with_ones_own_teams_only(user: User, browser: Client) -> None:
    team, other = Group.objects.create(name="desk"), Group.objects.create(name="other")
    user.groups.add(team)
    page = Page(browser.get("/start", {"kind": "demo.countdown"}))
    assert [each["value"] for each in page.all("option")] == ["", "desk"]
    assert browser.post("/start", {"kind": "demo.countdown", "team": other.name}).status_code == 422
    assert browser.post("/start", {"kind": "demo.countdown", "team": team.name}).status_code == 302
    assert Job.objects.get().team == team


def test_the_same_request_as_a_command(browser: Client) -> None:
    text = browser.post(
        "/start/curl",
        {"kind": "csv.report", "params.delimiter": ";", "filename.file": "it's.csv", "idempotencyKey": "k"},
    ).content.decode()
    assert '{"kind": "csv.report", "params": {"delimiter": ";"}};type=application/json' in text
    assert """-F file=@'it'"'"'s.csv'""" in text
    text = browser.post("/start/curl", {"kind": "demo.countdown", "params.steps": "3", "tags": "it's"}).content.decode()
    assert "Content-Type: application/json" in text
    assert '"steps": 3' in text


def test_one_like_it_begins_with_the_params_of_another(user: User, browser: Client) -> None:
    job = new_job(user, params={"seconds": 2.5, "steps": 7, "failures": 0}, tags=["monthly"])
    page = Page(browser.get("/start", {"from": str(job.pk)}))
    assert page.all("input", name="params.seconds", value="2.5")
    assert page.all("input", name="params.steps", value="7")
    assert page.all("input", name="tags", value="monthly")


# --- One job ----------------------------------------------------------------------------------------------------------


def title_of(response: Response) -> str:
    text: str = response.content.decode()
    return text.partition("<title>")[2].partition("</title>")[0]


def test_a_running_job_shows_how_far_it_is(user: User, browser: Client) -> None:
    job = running_job(user)
    response = browser.get(reverse("job", args=[job.pk]))
    page = Page(response)
    assert title_of(response) == "42% Countdown · Kabar"
    assert page.all("progress", value="42", class_="big")
    for text in ("Adding up rows", "420,000 of 1,000,000", "Accepted", "Started", "try 1 of 3", "Try 1 of 3"):
        assert text in page.text
    assert page.all("dialog", id="cancel")
    assert not page.all("dialog", id="delete")


def test_a_completed_job_shows_its_report_apart_and_first(user: User, browser: Client) -> None:
    job = completed_job(user)
    response = browser.get(reverse("job", args=[job.pk]))
    page = Page(response)
    assert title_of(response) == "Completed: Countdown · Kabar"
    (frame,) = page.all("iframe")
    assert frame["sandbox"] == ""
    assert str(frame["src"]).startswith("/api/artifacts/")
    report: Any = browser.get(str(frame["src"]))
    assert b"".join(report.streaming_content) == b"hi"
    report.close()
    order = [response.content.decode().index(each) for each in ("<iframe", 'id="result"', 'class="doors"')]
    assert order == sorted(order)
    assert page.all("a", aria_label="Download report.html")
    assert page.all("dialog", id="delete")


def test_a_video_is_played_in_place_behind_its_poster(user: User, browser: Client) -> None:
    job = claimed_job(user)
    for name, content_type in (("video.mp4", "video/mp4"), ("poster.jpg", "image/jpeg")):
        artifact = Artifact(job=job, fence=job.fence, attempt=1, name=name, content_type=content_type, size=2)
        artifact.is_main, artifact.created_at = name == "video.mp4", timezone.now()
        artifact.file.save(name, ContentFile(b"hi"))
    lifecycle.finish([Outcome(job=job, result={"width": 1920})])
    response = browser.get(reverse("job", args=[job.pk]))
    assert "media-src 'self'" in response["Content-Security-Policy"]
    page = Page(response)
    (video,) = page.all("video")
    assert "/video.mp4?" in str(video["src"])
    assert "/poster.jpg?" in str(video["poster"])
    assert str(video["src"]).startswith("/")
    assert not page.all("iframe")
    for name in ("video.mp4", "poster.jpg"):
        assert page.all("a", aria_label=f"Download {name}")


def test_a_file_that_no_page_can_show_is_offered_and_not_framed(user: User, browser: Client) -> None:
    job = claimed_job(user)
    artifact = Artifact(job=job, fence=job.fence, attempt=1, name="a.zip", content_type="application/zip", size=2)
    artifact.is_main, artifact.created_at = True, timezone.now()
    artifact.file.save("a.zip", ContentFile(b"hi"))
    lifecycle.finish([Outcome(job=job, result=None)])
    page = Page(browser.get(reverse("job", args=[job.pk])))
    assert page.all("a", aria_label="Download a.zip")
    assert not page.all("iframe")


def test_a_choice_that_has_a_default_has_no_empty_one(browser: Client) -> None:
    page = Page(browser.get("/start", {"kind": "video.transcode"}))
    assert page.all("select", name="params.resolution")
    (standing,) = page.all("option", value="1080")
    assert "selected" in standing
    assert not page.all("option", value="")


def test_a_failed_job_says_why_and_what_to_do(user: User, browser: Client) -> None:
    job = failed_job(user)
    page = Page(browser.get(reverse("job", args=[job.pk])))
    for text in ("The file is empty.", "Kabar tried it once.", "Code empty, said by try 1.", "Try 1"):
        assert text in page.text
    assert page.all("form", action=reverse("retry", args=[job.pk]))


def test_log_lines_and_tries_are_told(user: User, browser: Client) -> None:
    job = claimed_job(user)
    now = timezone.now()
    lines = [{"level": "info", "message": "Read 9 columns"}, {"level": "warning", "message": "112 rows are odd"}]
    lifecycle.beat([Beat(job=job, lines=lines, moments=[now, now])])
    lifecycle.finish([Outcome(job=job, error={"code": "away", "message": "The server was away."})])
    page = Page(browser.get(reverse("job", args=[job.pk])))
    for text in ("Read 9 columns", "112 rows are odd", "Log line, warning", "The server was away.", "Retrying in"):
        assert text in page.text
    assert page.all("span", class_="lv lv-warn")


def test_a_very_long_log_shows_its_newest(user: User, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.pages.history.MOST_EVENTS", 2)
    job = failed_job(user)
    page = Page(browser.get(reverse("job", args=[job.pk])))
    assert [each["data-event"] for each in page.all("tr") if "data-event" in each] == ["3", "2"]
    assert "The newest 2 events" in page.text


class Desk:
    """A subscriber that has told a webhook of the first event."""

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open

    def doors(self, job: Job) -> list[dict[str, Any]]:
        told = {"sequence": 1, "door": "webhook", "to": "desk.example", "state": "delivered", "detail": "212 ms"}
        open_one = {"sequence": 1, "door": "webhook", "to": "other.example", "state": "retrying", "detail": ""}
        return [told, open_one] if self.is_open else [told]

    def has_open_work(self, subject_id: UUID) -> bool:
        return self.is_open

    def on_purge(self, job_ids: Any) -> None: ...

    def hearing(self, owner_ids: Collection[int]) -> set[int]:
        return set()

    def on_events(self, events: Any) -> None: ...

    def on_batches(self, events: Any) -> None: ...


def test_the_panel_shows_what_webhooks_heard(user: User, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.subscribers._subscribers", [Desk(is_open=True)])
    page = Page(browser.get(reverse("job", args=[new_job(user).pk])))
    assert "212 ms" in page.text
    assert "will be tried again" in page.text
    assert "2 addresses" in page.text
    assert page.all("span", class_="got completed", title="desk.example")
    assert page.all("div", data_region="doors", data_open_delivery=None)  # type: ignore[arg-type]


def test_cancelling_a_waiting_job_ends_it(user: User, browser: Client) -> None:
    job = new_job(user)
    url = reverse("cancel", args=[job.pk])
    assert browser.get(url).status_code == 405
    assert browser.post(url)["Location"] == reverse("job", args=[job.pk])
    assert Job.objects.get(pk=job.pk).status == Status.CANCELLED
    assert "Cancelled before it began" in Page(browser.get(reverse("job", args=[job.pk]))).text


def test_cancelling_a_running_job_asks_for_it(user: User, browser: Client) -> None:
    job = running_job(user)
    assert (
        browser.post(reverse("cancel", args=[job.pk]), {"next": "/?status=RUNNING"})["Location"] == "/?status=RUNNING"
    )
    page = Page(browser.get(reverse("job", args=[job.pk])))
    assert "Being cancelled" in page.text
    assert not page.all("dialog", id="cancel")


def test_cancelling_a_finished_job_is_refused_in_words(user: User, browser: Client) -> None:
    job = completed_job(user)
    response = browser.post(reverse("cancel", args=[job.pk]), follow=True)
    assert "This job is over" in Page(response).text


def test_retrying_opens_a_failed_job_again(user: User, browser: Client) -> None:
    job = failed_job(user)
    assert browser.post(reverse("retry", args=[job.pk]))["Location"] == reverse("job", args=[job.pk])
    assert Job.objects.get(pk=job.pk).status == Status.PENDING
    assert f"by {user.username}" in Page(browser.get(reverse("job", args=[job.pk]))).text
    response = browser.post(reverse("retry", args=[job.pk]), follow=True)
    assert "Only a failed or cancelled job can be retried." in Page(response).text


def test_deleting_removes_a_finished_job_only(user: User, browser: Client) -> None:
    finished, standing = failed_job(user), new_job(user)
    response = browser.post(reverse("delete", args=[standing.pk]), follow=True)
    assert "Cancel it first." in Page(response).text
    assert browser.post(reverse("delete", args=[finished.pk]))["Location"] == "/"
    assert "The job is deleted." in Page(browser.get("/")).text
    assert list(Job.objects.all()) == [standing]


def test_a_job_with_a_delivery_to_make_is_deleted_only_with_the_word(
    user: User, browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failed_job(user)
    monkeypatch.setattr("jobs.subscribers._subscribers", [Desk(is_open=True)])
    url = reverse("delete", args=[job.pk])
    assert "A delivery of this job is still to be made." in Page(browser.post(url, follow=True)).text
    page = Page(browser.get(reverse("job", args=[job.pk])))
    assert "A webhook of it is still to be delivered" in page.text
    assert page.all("input", name="force", value="true")
    browser.post(url, {"force": "true"})
    assert not Job.objects.exists()


def test_a_jobs_page_costs_the_same_queries_however_long_its_log_is(
    user: User, browser: Client, django_assert_num_queries: QueryCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.subscribers._subscribers", [])
    job = claimed_job(user)
    browser.get(reverse("job", args=[job.pk]))  # how long its kind usually takes is kept for a while
    for number in range(3):
        line = {"level": "info", "message": f"{number}"}
        lifecycle.beat([Beat(job=job, lines=[line], moments=[timezone.now()])])
        # Session, user, teams, job, artifacts, uploads, counts, events; one more for each subscriber.
        with django_assert_num_queries(8):
            browser.get(reverse("job", args=[job.pk]))


# --- Language and theme -----------------------------------------------------------------------------------------------


def test_the_language_is_kept_and_every_page_speaks_it(user: User, browser: Client) -> None:
    response = browser.post("/preferences", {"language": "id", "next": "/start?kind=demo.countdown"})
    assert response["Location"] == "/start?kind=demo.countdown"
    for page in (Page(each) for each in every_page(user, browser)):
        assert page.all("html") in ([], [{"lang": "id", "data-theme": "auto"}], [{"lang": "en", "data-theme": "auto"}])
    page = Page(browser.get("/"))
    assert page.all("html", lang="id")
    for text in ("Pekerjaan saya", "Mulai pekerjaan", "Berjalan", "Menunggu", "Hari ini", "semua waktu dalam UTC"):
        assert text in page.text
    assert "Completed" not in page.text


def test_the_browsers_language_is_spoken_until_one_is_chosen(client: Client) -> None:
    assert Page(client.get("/sign-in", headers={"accept-language": "id"})).all("html", lang="id")
    assert Page(client.get("/sign-in", headers={"accept-language": "fr"})).all("html", lang="en")


def test_the_theme_is_kept_and_drawn_at_once(browser: Client) -> None:
    assert Page(browser.get("/")).all("html", data_theme="auto")
    browser.post("/preferences", {"theme": "dark"})
    page = Page(browser.get("/"))
    assert page.all("html", data_theme="dark")
    assert "checked" in page.all("input", name="theme", value="dark")[0]


@pytest.mark.parametrize("values", [{"theme": "pink"}, {"language": "xx"}, {"theme": HOSTILE}, {}])
def test_unknown_preferences_are_not_kept(browser: Client, values: dict[str, str]) -> None:
    response = browser.post("/preferences", values)
    assert not response.cookies
    browser.cookies["theme"] = "<script>"
    assert Page(browser.get("/")).all("html", data_theme="auto", lang="en")


@pytest.mark.parametrize("address", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", "x"])
def test_nobody_is_sent_elsewhere(user: User, browser: Client, address: str) -> None:
    assert browser.post("/preferences", {"theme": "dark", "next": address})["Location"] == "/"
    assert browser.post(reverse("cancel", args=[new_job(user).pk]), {"next": address})["Location"] == "/"
