"""The pages in a real browser, on the real stack: the connection first, the job by plain HTTP, no reload."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, WebSocketRoute, expect, sync_playwright

from tests.e2e.stack import PASSWORD, Client, Stack

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WAIT_MS = 20_000
SALES = b"region;sum\n" + b"".join(b"Jawa %d;%d\n" % (place % 7, place) for place in range(2000))


@dataclass(kw_only=True)
class Watched:
    """A page, and what went wrong on it."""

    page: Page
    faults: list[str] = field(default_factory=list)
    expected_faults: tuple[str, ...] = ()

    def mark(self) -> None:
        """Leave a mark that no reload survives."""
        self.page.evaluate("window.isSameDocument = true")

    @property
    def is_same_document(self) -> bool:
        return bool(self.page.evaluate("window.isSameDocument === true"))


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def session(browser: Browser, stack: Stack) -> StorageState:
    """Sign in once, and give the cookies."""
    stack.token()  # makes the user
    context = browser.new_context(base_url=stack.url, locale="en-GB")
    sign_in(context.new_page())
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def open_page(browser: Browser, stack: Stack, session: StorageState) -> Iterator[Callable[..., Watched]]:
    """Give a function that opens a signed-in page; afterwards, nothing may have gone wrong on any."""
    opened: list[tuple[BrowserContext, Watched]] = []

    def open_page(path: str, **options: Any) -> Watched:
        context = browser.new_context(base_url=stack.url, locale="en-GB", storage_state=session)
        context.set_default_timeout(WAIT_MS)
        watched = Watched(page=context.new_page(), **options)
        opened.append((context, watched))
        watch(watched, stack.url)
        watched.page.goto(path)
        return watched

    yield open_page
    for context, watched in opened:
        context.close()
        assert [each for each in watched.faults if not any(known in each for known in watched.expected_faults)] == []


def watch(watched: Watched, url: str) -> None:
    """Note errors, violations of the policy (the console tells of them), and requests to elsewhere."""
    page, faults = watched.page, watched.faults
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: None if request.url.startswith(url) else faults.append(f"to {request.url}"))


def sign_in(page: Page) -> None:
    page.goto("/sign-in")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("/")


def soon(seconds: float = 3.0) -> str:
    """Give the time at which a job may begin, once its page is open."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def send_sales(client: Client, **fields: Any) -> str:
    """Submit a report by plain HTTP and give the job's id."""
    job = json.dumps({"kind": "csv.report", "params": {}, **fields})
    response = client.post("/api/jobs", data={"job": job}, files={"file": ("sales.csv", SALES)})
    assert response.status_code == 202, response.text
    return str(response.json()["jobId"])


def expect_live(page: Page) -> None:
    expect(page.locator("[data-conn]")).to_have_attribute("data-conn", "live", timeout=WAIT_MS)


def sequences(page: Page) -> list[int]:
    """Read the events that the page shows, oldest first."""
    rows = page.locator("tr[data-event]")
    return [int(str(row.get_attribute("data-event"))) for row in rows.all()][::-1]


def test_a_report_appears_on_an_open_page_without_a_reload(open_page: Callable[..., Watched], client: Client) -> None:
    watched = open_page("/start")
    page = watched.page
    job_id = send_sales(client, runAt=soon())
    page.goto(f"/jobs/{job_id}")
    expect_live(page)
    expect(page.locator(".st.chip")).to_have_text("Waiting")
    watched.mark()
    expect(page.locator(".st.chip")).to_have_text("Completed", timeout=WAIT_MS)
    expect(page).to_have_title("Completed: CSV report · Kabar")
    report = page.frame_locator("iframe[sandbox='']")
    expect(report.get_by_role("heading", name="sales.csv")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("[data-announce]")).to_have_text("CSV report: Completed")
    expect(page.locator("[data-log] li")).to_have_count(2)
    assert sequences(page) == list(range(1, client.job(job_id)["sequence"] + 1))
    assert watched.is_same_document


def test_progress_moves_the_bar_the_title_and_the_panel(open_page: Callable[..., Watched], client: Client) -> None:
    watched = open_page("/start")
    page = watched.page
    job_id = client.submit(params={"seconds": 4, "steps": 40}, runAt=soon())
    page.goto(f"/jobs/{job_id}")
    expect_live(page)
    watched.mark()
    titles: set[str] = set()
    while not page.title().startswith("Completed"):
        titles.add(page.title())
        page.wait_for_timeout(50)  # lets the browser go on; the test's own timeout is the deadline
    percents = {title.partition("%")[0] for title in titles if "%" in title}
    assert len(percents) > 5
    assert all(percent.isdigit() for percent in percents)
    expect(page.locator("[data-progress-row]")).to_have_count(0)
    assert watched.is_same_document


def test_rows_change_in_place_and_new_jobs_are_offered(open_page: Callable[..., Watched], client: Client) -> None:
    watched = open_page("/start")
    page = watched.page
    first = client.submit(params={"seconds": 2, "steps": 20}, runAt=soon(), tags=["of-the-list"])
    page.goto("/?tag=of-the-list")
    expect_live(page)
    watched.mark()
    second = client.submit(params={"seconds": 0, "steps": 1}, tags=["of-the-list"])
    client.submit(params={"seconds": 0, "steps": 1}, tags=["of-another"])
    expect(page.locator("[data-new-word]")).to_have_text("1 job was started since you opened this page.")
    row = page.locator(f"[data-job='{first}']")
    expect(row.locator(".st")).to_have_text("Running", timeout=WAIT_MS)
    expect(row.locator("[data-percent]")).to_have_text(re.compile(r"^\d+%$"), timeout=WAIT_MS)
    expect(row.locator(".st")).to_have_text("Completed", timeout=WAIT_MS)
    expect(page.locator("[data-job]")).to_have_count(1)
    assert watched.is_same_document
    page.get_by_role("link", name="Show 1 new job").click()
    expect(page.locator("[data-job]").first).to_have_attribute("data-job", second)
    expect(page.locator("[data-job]")).to_have_count(2)


def test_a_file_is_sent_from_the_form_and_its_report_is_shown(open_page: Callable[..., Watched]) -> None:
    page = open_page("/start").page
    page.locator("input[type=file]").set_input_files({"name": "sales.csv", "mimeType": "text/csv", "buffer": SALES})
    expect(page.locator("[data-upload]")).to_contain_text("sales.csv")
    expect(page.locator("#curl")).to_contain_text("-F file=@sales.csv")
    page.get_by_role("button", name="Start job").click()
    page.wait_for_url("**/jobs/*")
    report = page.frame_locator("iframe[sandbox='']")
    expect(report.get_by_role("heading", name="sales.csv")).to_be_visible(timeout=WAIT_MS)


def test_faults_come_back_without_losing_the_file(open_page: Callable[..., Watched]) -> None:
    page = open_page("/start", expected_faults=("status of 422",)).page
    page.locator("input[type=file]").set_input_files({"name": "sales.csv", "mimeType": "text/csv", "buffer": SALES})
    page.get_by_label("Encoding").fill("no-such-encoding")
    page.get_by_role("button", name="Start job").click()
    expect(page.locator("#faults")).to_be_focused()
    page.locator("#faults a").click()
    expect(page.get_by_label("Encoding")).to_be_focused()
    expect(page.locator("[data-upload]")).to_contain_text("sales.csv")
    page.get_by_label("Encoding").fill("utf-8")
    page.get_by_role("button", name="Start job").click()
    page.wait_for_url("**/jobs/*")


def test_cancelling_asks_first_and_a_retry_goes_on_in_place(open_page: Callable[..., Watched], client: Client) -> None:
    job_id = client.submit(params={"seconds": 600, "steps": 100})
    page = open_page(f"/jobs/{job_id}").page
    expect(page.locator(".st.chip")).to_have_text("Running", timeout=WAIT_MS)
    page.get_by_role("button", name="Cancel job").click()
    expect(page.get_by_role("button", name="Let it run")).to_be_focused()
    page.get_by_role("button", name="Let it run").click()
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
    expect(page.locator(".st.chip")).to_have_text("Cancelled", timeout=WAIT_MS)
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".st.chip")).to_have_text("Running", timeout=WAIT_MS)
    client.post(f"/api/jobs/{job_id}/cancel")
    expect(page.locator(".st.chip")).to_have_text("Cancelled", timeout=WAIT_MS)


def test_where_sockets_fail_the_page_polls(open_page: Callable[..., Watched], client: Client) -> None:
    watched = open_page("/start")
    page = watched.page
    job_id = client.submit(params={"seconds": 2, "steps": 10}, runAt=soon(5))

    def refuse(socket: WebSocketRoute) -> None:
        socket.close(code=1011)

    page.route_web_socket("**/ws/jobs", refuse)
    page.goto(f"/jobs/{job_id}")
    watched.mark()
    expect(page.locator("[data-conn]")).to_have_text("Polling", timeout=WAIT_MS)
    expect(page.locator(".st.chip")).to_have_text("Completed", timeout=WAIT_MS)
    assert sequences(page) == list(range(1, client.job(job_id)["sequence"] + 1))
    assert watched.is_same_document


def test_a_restart_of_the_web_loses_the_page_nothing(
    open_page: Callable[..., Watched], client: Client, stack: Stack
) -> None:
    job_id = client.submit(params={"seconds": 5, "steps": 50})
    watched = open_page(f"/jobs/{job_id}", expected_faults=("ERR_CONNECTION", "WebSocket connection", "status of 50"))
    page = watched.page
    expect_live(page)
    watched.mark()
    stack.supervisor.restart("web")
    expect(page.locator(".st.chip")).to_have_text("Completed", timeout=WAIT_MS)
    expect_live(page)
    assert sequences(page) == list(range(1, client.job(job_id)["sequence"] + 1))
    assert watched.is_same_document


def test_the_client_library_submits_and_watches_with_a_token(open_page: Callable[..., Watched], client: Client) -> None:
    page = open_page("/start", expected_faults=("status of 404", "status of 422")).page
    told = page.evaluate(
        """async (token) => {
            const { Kabar } = await import("/static/notifications/kabar.js");
            const states = [], events = [];
            const kabar = new Kabar({ token, onConnection: ({ state }) => states.push(state) });
            const receipt = await kabar.submit("demo.countdown", { seconds: 3, steps: 30 }, { tags: ["by-library"] });
            const onEvent = (event) => events.push([event.id === null, event.sequence, event.data.version]);
            const job = await kabar.watch(receipt.jobId, { after: 0, onEvent }).done;
            const unknown = kabar.watch("01900000-0000-7000-8000-000000000000");
            const missing = await unknown.done.catch((error) => error.status);
            const refused = await kabar.submit("no.such").catch((error) => error.problem.errors[0].pointer);
            kabar.close();
            return { receipt, job, events, states, missing, refused };
        }""",
        client.token,
    )
    kept = [sequence for is_progress, sequence, _ in told["events"] if not is_progress]
    versions = [version for _, _, version in told["events"]]
    assert kept == list(range(1, client.job(told["receipt"]["jobId"])["sequence"] + 1))
    assert versions == sorted(set(versions))
    assert any(is_progress for is_progress, _, _ in told["events"])
    assert (told["job"]["status"], told["missing"], told["refused"]) == ("COMPLETED", 404, "/kind")
    assert told["states"] == ["live", "idle", "live", "idle", "closed"]


def test_without_script_everything_can_be_done(browser: Browser, stack: Stack, client: Client) -> None:
    context = browser.new_context(base_url=stack.url, java_script_enabled=False, locale="en-GB")
    page = context.new_page()
    sign_in(page)  # also without script
    page.goto("/start?kind=demo.countdown")
    page.get_by_label("Seconds").fill("0")
    page.get_by_label("Failures").fill("9")
    page.get_by_text("When, how and who hears of it").click()
    page.get_by_label("Tries at most").fill("1")
    page.get_by_role("button", name="Start job").click()
    job_id = page.url.rpartition("/")[2]
    client.finished(job_id)
    page.reload()
    expect(page.get_by_role("heading", name="Attempt 1 failed, as asked.")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    client.finished(job_id)
    page.reload()
    page.get_by_role("button", name="Delete job").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete job").click()
    expect(page.get_by_text("The job is deleted.")).to_be_visible()
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_every_page_without_scrolling_sideways(
    open_page: Callable[..., Watched], client: Client, theme: str
) -> None:
    job_id = send_sales(client, tags=["a-tag-that-is-long-enough-to-be-in-the-way-of-others"])
    client.finished(job_id)
    page = open_page("/").page
    page.get_by_role("radio", name=theme.capitalize()).check()
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", f"/jobs/{job_id}", "/start", "/start?kind=demo.countdown", "/api/docs"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, path
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme


def test_the_page_of_the_api_needs_no_sign_in_and_nothing_from_elsewhere(browser: Browser, stack: Stack) -> None:
    context = browser.new_context(base_url=stack.url, locale="en-GB")
    watched = Watched(page=context.new_page())
    watch(watched, stack.url)
    page = watched.page
    page.goto("/api/docs")
    operation = page.locator("#submitJob")
    expect(operation.get_by_text("Receipt").first).to_be_hidden()
    operation.locator("summary").click()
    operation.get_by_role("link", name="Receipt").first.click()
    expect(page.get_by_role("heading", name="Receipt", exact=True)).to_be_in_viewport()
    assert watched.faults == []
    context.close()
