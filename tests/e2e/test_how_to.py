"""The code of `docs/how-to/adopt-celery.md`, run by a real worker and asked by the views and the page that it shows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.http import Http404, HttpResponse
from django.test import RequestFactory
from playwright.sync_api import Page, Route, sync_playwright

from tests.e2e.stack import ROOT, Client, Stack, running_stack
from tests.waiting import wait_until

pytestmark = pytest.mark.on_any_database

HOW_TO = ROOT / "docs/how-to/adopt-celery.md"
PAGE = "<progress id='bar' max='100'></progress> <span id='words'></span>"
MORE_TASKS = '''

import time
from pathlib import Path


@adopt("reports.note")
@shared_task(bind=True)
def note(self, path: str):
    """Write down which way it came."""
    self.update_state(state="PROGRESS", meta={"current": 1, "total": 1})
    Path(path).write_text("as a job" if self.request.is_eager else "by delay")


@adopt("reports.flaky")
@shared_task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=1, max_retries=2)
def flaky(self):
    """Go well at the second attempt."""
    if self.request.retries == 0:
        raise ConnectionError("away")
    return self.request.retries


@adopt("reports.slow")
@shared_task(bind=True)
def slow(self, seconds: float):
    """Take a while."""
    for step in range(100):
        time.sleep(seconds / 100)
        self.update_state(state="PROGRESS", meta={"current": step + 1, "total": 100, "description": "Counting"})
'''


def blocks(label: str) -> list[str]:
    """Give the code of the page that is so labelled, in order."""
    return re.findall(rf"^```\w+ {label}\n(.*?)^```$", HOW_TO.read_text(), re.DOTALL | re.MULTILINE)


def adopted_tasks() -> str:
    """Write the tasks' file with the decorator that the page puts above it."""
    (before,), (decorated,) = blocks("before"), blocks("adopt")
    head, _, rest = before.partition("@shared_task")
    body = rest.partition(":\n")[2]
    return head + decorated.replace("    ...\n", body) + MORE_TASKS


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str]) -> Iterator[Stack]:
    """Give a Kabar with the page's task, adopted both by the decorator and from outside."""
    apps = tmp_path_factory.mktemp("apps")
    (before,), (kinds,) = blocks("before"), blocks("kinds")
    for app, name, text in (
        ("reports", "tasks", adopted_tasks()),
        ("reports", "kinds", "from reports import tasks  # noqa: F401\n"),
        ("untouched", "tasks", before),
        ("untouched", "kinds", kinds.replace("reports.", "untouched.")),
    ):
        (apps / app).mkdir(exist_ok=True)
        (apps / app / "__init__.py").touch()
        (apps / app / f"{name}.py").write_text(text)
    data = tmp_path_factory.mktemp("how-to")
    url = new_database_url()
    with running_stack(data, url, KABAR_APPS="reports,untouched", PYTHONPATH=str(apps)) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client()


@pytest.fixture
def views(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give the views of the page, as a project of its own has them."""
    monkeypatch.setenv("KABAR_URL", stack.url)
    monkeypatch.setenv("KABAR_TOKEN", stack.token())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names: dict[str, Any] = {}
    exec("\n\n".join(blocks("views")), names)  # noqa: S102 - it is our own page
    return SimpleNamespace(**names)


def asked(view: Callable[..., HttpResponse], *, user: int = 7, post: dict[str, str] | None = None, **path: Any) -> Any:
    """Call a view as one of the project's users."""
    request = RequestFactory().get("/") if post is None else RequestFactory().post("/", post)
    request.user = User(pk=user)
    return view(request, **path)


# --- The task ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reports.build", "untouched.build"])
def test_an_adopted_task_completes_with_its_progress_and_result(client: Client, kind: str) -> None:
    job = client.finished(client.submit(kind, {"year": 2026}))
    assert (job["status"], job["result"]) == ("COMPLETED", {"year": 2026, "region": "north", "total": 7800})
    assert job["progress"] == {"percent": 100.0, "message": "Month 12", "current": 12, "total": 12}
    assert (job["attempt"], job["maxAttempts"]) == (1, 4)


def test_its_params_are_checked_before_there_is_a_job(client: Client) -> None:
    answer = client.post("/api/jobs", {"kind": "reports.build", "params": {"year": "soon", "region": "east"}})
    assert answer.status_code == 422
    assert [each["pointer"] for each in answer.json()["errors"]] == ["/params/year", "/params/region"]


def test_a_task_that_asks_for_it_is_tried_again(client: Client) -> None:
    job_id = client.submit("reports.flaky")
    job = client.finished(job_id)
    assert (job["status"], job["result"], job["attempt"]) == ("COMPLETED", 1, 2)
    (retrying,) = [
        each for each in client.get(f"/api/jobs/{job_id}/events").json()["events"] if each["type"] == "job.retrying"
    ]
    assert retrying["data"]["error"]["code"] == "retry_later"
    assert "ConnectionError" in retrying["data"]["error"]["message"]


def test_a_task_that_runs_is_cancelled(client: Client) -> None:
    job_id = client.submit("reports.slow", {"seconds": 50})
    wait_until(lambda: client.job(job_id)["status"] == "RUNNING", 20)
    assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 202
    assert client.finished(job_id)["status"] == "CANCELLED"


def test_the_same_task_goes_on_by_delay(stack: Stack, client: Client, tmp_path: Path) -> None:
    by_job, by_delay = tmp_path / "job", tmp_path / "delay"
    assert client.finished(client.submit("reports.note", {"path": str(by_job)}))["status"] == "COMPLETED"
    stack.manage("shell", "-v0", "-c", f"from reports.tasks import note; note.delay({str(by_delay)!r})")
    wait_until(lambda: by_delay.exists() and by_delay.read_text(), 20)
    assert (by_job.read_text(), by_delay.read_text()) == ("as a job", "by delay")


# --- The views and the page -------------------------------------------------------------------------------------------


def test_the_view_starts_a_job_and_the_old_page_sees_its_progress(views: SimpleNamespace, client: Client) -> None:
    started = asked(views.start, post={"year": "2026", "region": "south"})
    job_id = json.loads(started.content)["task_id"]
    client.finished(job_id)
    answer = asked(views.progress, job_id=job_id)
    assert json.loads(answer.content) == {
        "state": "SUCCESS",
        "complete": True,
        "success": True,
        "progress": {"pending": False, "current": 12, "total": 12, "percent": 100.0, "description": "Month 12"},
        "result": {"year": 2026, "region": "south", "total": 7800},
    }


def test_the_old_page_sees_a_job_that_is_cancelled_as_one_that_failed(views: SimpleNamespace, client: Client) -> None:
    job_id = client.submit("reports.build", {"year": 2026}, runAt="2100-01-01T00:00:00Z", metadata={"user": 7})
    waiting = json.loads(asked(views.progress, job_id=job_id).content)
    assert (waiting["complete"], waiting["success"], waiting["progress"]["pending"]) == (False, None, True)
    client.post(f"/api/jobs/{job_id}/cancel")
    ended = json.loads(asked(views.progress, job_id=job_id).content)
    assert (ended["complete"], ended["success"], ended["result"]) == (True, False, "Cancelled")


def test_wrong_input_is_answered_with_its_faults(views: SimpleNamespace) -> None:
    answer = asked(views.start, post={"year": "soon"})
    assert answer.status_code == 422
    assert json.loads(answer.content)["errors"][0]["pointer"] == "/params/year"


def test_one_user_does_not_see_anothers_job_nor_one_that_there_is_not(views: SimpleNamespace) -> None:
    job_id = json.loads(asked(views.start, post={"year": "2026"}).content)["task_id"]
    for user, each in ((8, job_id), (7, uuid4())):
        with pytest.raises(Http404):
            asked(views.progress, user=user, job_id=each)


def test_the_new_page_hears_of_progress_and_of_the_end(
    stack: Stack, views: SimpleNamespace, client: Client, page: Page
) -> None:
    job_id = client.submit("reports.slow", {"seconds": 3}, metadata={"user": 7})

    def news(route: Route) -> None:
        route.fulfill(body=asked(views.news, job_id=job_id).content, content_type="application/json")

    page.route("**/news", news)
    page.goto(f"{stack.url}/healthz")  # a page of the same origin, which needs no CORS
    (script,) = blocks("page")
    ended = page.evaluate(
        f"""async () => {{
            document.body.innerHTML = {json.dumps(PAGE)};
            window.seen = [];
            {script}
            const [bar, words] = [document.querySelector("#bar"), document.querySelector("#words")];
            const look = () => seen.push([bar.value, words.textContent]);
            const timer = setInterval(look, 50);
            const job = await new Promise((resolve) => watch("/news", resolve));
            clearInterval(timer);
            return {{job, seen}};
        }}"""
    )
    assert ended["job"]["status"] == "COMPLETED"
    values = [value for value, words in ended["seen"] if words == "Counting"]
    assert values == sorted(values)
    assert len(set(values)) > 3


@pytest.fixture
def page(chromium: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser.new_page()
        finally:
            browser.close()


def test_the_page_names_no_path_that_there_is_not() -> None:
    text = HOW_TO.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    assert [each for each in links if not os.path.exists(HOW_TO.parent / each)] == []
