"""The layer in front of Django answers polls as the view does, to the byte, and only those that it is sure of."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.core.files.base import ContentFile
from django.db import connection, connections
from django.utils import timezone

from config.one_hop import OneHopHandler
from jobs import lifecycle
from jobs.api.quick_polls import QuickPolls, poll_of
from jobs.api.waiting import Answer, ask
from jobs.credentials import create_token, make_token, make_watch_token
from jobs.files import keep
from jobs.lifecycle import Beat, Outcome
from jobs.models import Artifact, Job, Scope, Token
from tests.factories import claimed_job, new_job, new_user

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from pytest_django import Settings

pytestmark = pytest.mark.django_db(transaction=True)

ESTIMATE = re.compile(rb'"estimatedFinishAt":"[^"]+"')
Headers = list[tuple[bytes, bytes]]


class Counted:
    """Django, with how often it was asked."""

    def __init__(self) -> None:
        self.handler = OneHopHandler(1)
        self.count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        await self.handler(scope, receive, send)


@dataclass(kw_only=True)
class Doors:
    """The view alone, and the layer in front of the same view."""

    view: Counted = field(default_factory=Counted)
    quick: QuickPolls

    def ask_view(self, scope: Mapping[str, Any]) -> Answer:
        return asyncio.run(ask(self.view, dict(scope)))

    def ask_quick(self, scope: Mapping[str, Any]) -> tuple[Answer, bool]:
        """Ask the layer, and say whether it answered by itself."""
        before = self.view.count
        return asyncio.run(ask(self.quick, dict(scope))), self.view.count == before


@pytest.fixture
def doors(settings: Settings, tmp_path: Path) -> Iterator[Doors]:
    settings.MEDIA_ROOT = tmp_path
    view = Counted()
    made = Doors(view=view, quick=QuickPolls(view))
    yield made
    for thread in (view.handler._threads, made.quick._rounds._thread):  # or their connections outlive the database
        thread.submit(connections.close_all).result()


def poll(
    job_id: object, token: str, query: bytes = b"", path: str = "/api/jobs/status/", **headers: str
) -> dict[str, Any]:
    """Make the ASGI scope of a poll; underscores in headers' names stand for hyphens."""
    named = {"host": "localhost:8000", "authorization": f"Bearer {token}", **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": f"{path}{job_id}",
        "raw_path": f"{path}{job_id}".encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": query,
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()],
        "client": ["127.0.0.1", 1],
        "server": ["127.0.0.1", 8000],
    }


def as_compared(answer: Answer) -> tuple[int, Headers, bytes]:
    """Give all of an answer but what is guessed anew each time."""
    return answer.status, [*answer.start["headers"]], ESTIMATE.sub(b"", b"".join(answer.body))


def check_same(doors: Doors, scope: Mapping[str, Any], *, is_sure: bool) -> Answer:
    """Check that both doors say the same, twice, and whether the layer needed the view once it had seen one answer."""
    asked = doors.ask_view(scope)
    first, _ = doors.ask_quick(scope)
    second, is_quick = doors.ask_quick(scope)
    assert as_compared(first) == as_compared(second) == as_compared(asked)
    assert is_quick == is_sure
    return asked


def noted_token(user: User, make: Callable[[User], str] = lambda user: create_token(user, "test")) -> str:
    """Make a token whose use has just been noted."""
    text = make(user)
    Token.objects.filter(user=user).update(last_used_at=timezone.now())
    return text


def pending(owner: User) -> Job:
    return new_job(owner)


def scheduled(owner: User) -> Job:
    return new_job(owner, run_at=timezone.now() + timedelta(hours=1))


def running(owner: User) -> Job:
    return claimed_job(owner)


def running_with_progress(owner: User) -> Job:
    job = claimed_job(owner, tags=["a", "é"], metadata={"line\u2028separator": "</script>"})
    lifecycle.beat([Beat(job=job, progress={"percent": 40.0, "message": "…", "current": 4, "total": 10}, version=9)])
    return job


def retrying(owner: User) -> Job:
    job = claimed_job(owner)
    lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"}, retry_after=60)])
    return job


def completed(owner: User) -> Job:
    job = claimed_job(owner)
    for number, (fence, name) in enumerate([(job.fence, "a.txt"), (job.fence, "ä b.png"), (job.fence - 1, "left.txt")]):
        row = Artifact(
            job=job,
            fence=fence,
            attempt=1,
            name=name,
            content_type="text/plain",
            size=1,
            sha256="0" * 64,
            is_main=number == 1,
            created_at=timezone.now(),
        )
        keep(row.file, f"{job.id}/{number}", ContentFile(b"x"))
        row.save()
    lifecycle.finish([Outcome(job=job, result={"sum": 1.5, "names": ["ü", None]})])
    return job


def failed(owner: User) -> Job:
    job = claimed_job(owner)
    lifecycle.finish([Outcome(job=job, error={"code": "e", "message": "m"}, traceback="secret", retry=False)])
    return job


def cancelled(owner: User) -> Job:
    return lifecycle.cancel(new_job(owner).pk)


@pytest.mark.parametrize(
    "make", [pending, scheduled, running, running_with_progress, retrying, completed, failed, cancelled]
)
def test_each_kind_of_job_is_shown_as_the_view_shows_it(doors: Doors, make: Callable[[User], Job]) -> None:
    owner = new_user()
    job, token = make(owner), noted_token(owner)
    for path in ("/api/jobs/", "/api/jobs/status/"):
        fresh = check_same(doors, poll(job.pk, token, path=path), is_sure=True)
        assert fresh.status == 200
        etag = (fresh.header(b"etag") or b"").decode()
        for known in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
            assert check_same(doors, poll(job.pk, token, if_none_match=known), is_sure=True).status == 304
        for unknown in ('"x"', "nonsense"):
            assert check_same(doors, poll(job.pk, token, if_none_match=unknown), is_sure=True).status == 200
        for query in (b"wait=5", b"wait=60"):
            check_same(doors, poll(job.pk, token, query), is_sure=True)
            check_same(doors, poll(job.pk, token, query, if_none_match=etag), is_sure=True)


@pytest.mark.parametrize("who", ["owner", "mate", "staff"])
def test_whoever_may_see_a_job_is_answered(doors: Doors, who: str) -> None:
    team = Group.objects.create(name="team")
    owner, mate, staff = new_user(), new_user(), new_user(is_staff=True)
    mate.groups.add(team)
    job = new_job(owner, team_id=team.pk)
    token = noted_token({"owner": owner, "mate": mate, "staff": staff}[who])
    assert check_same(doors, poll(job.pk, token), is_sure=True).status == 200


def test_what_somebody_may_not_see_is_for_the_view_to_refuse(doors: Doors) -> None:
    team = Group.objects.create(name="team")
    job = new_job(team_id=team.pk)
    outsider = new_user()
    outsider.groups.add(Group.objects.create(name="other"))
    for job_id in (job.pk, uuid4()):
        assert check_same(doors, poll(job_id, noted_token(outsider)), is_sure=False).status == 404


def test_what_was_seen_by_the_owner_is_still_hidden_from_others(doors: Doors) -> None:
    job = new_job()
    check_same(doors, poll(job.pk, noted_token(job.owner)), is_sure=True)
    stranger = noted_token(new_user())
    assert check_same(doors, poll(job.pk, stranger), is_sure=False).status == 404
    assert check_same(doors, poll(job.pk, stranger, if_none_match="*"), is_sure=False).status == 404


@pytest.mark.parametrize("end", ["revoked", "expired", "inactive"])
def test_a_token_that_was_good_is_refused_at_once(doors: Doors, end: str) -> None:
    job = new_job()
    scope = poll(job.pk, noted_token(job.owner))
    assert check_same(doors, scope, is_sure=True).status == 200
    match end:
        case "revoked":
            Token.objects.all().delete()
        case "expired":
            Token.objects.update(expiry=timezone.now() - timedelta(milliseconds=1))
        case "inactive":
            job.owner.is_active = False
            job.owner.save()
    assert check_same(doors, scope, is_sure=False).status == 401


@pytest.mark.parametrize(
    ("scopes", "status", "is_sure"), [([], 200, True), ([Scope.READ], 200, True), ([Scope.SUBMIT], 403, False)]
)
def test_a_token_is_good_for_what_it_is_meant_for(
    doors: Doors, scopes: list[Scope], status: int, is_sure: bool
) -> None:
    job = new_job()
    token = noted_token(job.owner, lambda user: make_token(user, "test", scopes=scopes).text)
    assert check_same(doors, poll(job.pk, token), is_sure=is_sure).status == status


def test_watch_tokens_are_the_views(doors: Doors) -> None:
    job = new_job()
    other = new_job(job.owner)

    def watch(user: User) -> str:
        hour = timedelta(hours=1)
        return make_watch_token(user, expires_in=hour, job_id=job.pk, parent=None, session=None).text

    token = noted_token(job.owner, watch)
    assert check_same(doors, poll(job.pk, token), is_sure=False).status == 200
    assert check_same(doors, poll(other.pk, token), is_sure=False).status == 404


def test_nonsense_for_a_token_is_the_views(doors: Doors) -> None:
    job = new_job()
    for token in ("", "x", "ü", "a b", "0" * 5000, "'; --"):
        assert check_same(doors, poll(job.pk, token), is_sure=False).status == 401


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (b"wait=0", {}),
        (b"wait=61", {}),
        (b"wait=5&wait=6", {}),
        (b"fields=jobId", {}),
        (b"", {"accept": "application/json; indent=4"}),
        (b"", {"accept": "text/html"}),
        (b"", {"accept": "text/event-stream"}),
        (b"", {"accept_language": "id"}),
        (b"", {"content_encoding": "gzip"}),
        (b"", {"cookie": "sessionid=x"}),
        (b"", {"origin": "https://elsewhere.example"}),
        (b"", {"host": "elsewhere.example"}),
        (b"", {"host": ""}),
    ],
)
def test_anything_unusual_is_the_views(doors: Doors, query: bytes, headers: dict[str, str]) -> None:
    job = new_job()
    scope = poll(job.pk, noted_token(job.owner), query, **headers)
    assert poll_of(scope) is None
    check_same(doors, scope, is_sure=False)


def test_the_use_of_a_token_is_noted_by_the_view_once_a_minute(doors: Doors) -> None:
    job = new_job()
    scope = poll(job.pk, create_token(job.owner, "test"))
    assert not doors.ask_quick(scope)[1]  # the first use ever
    doors.ask_quick(scope)
    assert doors.ask_quick(scope)[1]
    Token.objects.update(last_used_at=timezone.now() - timedelta(seconds=61))
    assert not doors.ask_quick(scope)[1]
    noted = Token.objects.get().last_used_at
    assert noted is not None
    assert timezone.now() - noted < timedelta(seconds=30)
    assert doors.ask_quick(scope)[1]


def test_each_change_is_seen_by_the_next_poll(doors: Doors) -> None:
    job = claimed_job()
    scope = poll(job.pk, noted_token(job.owner))
    check_same(doors, scope, is_sure=True)
    for percent in range(1, 20):
        lifecycle.beat([Beat(job=job, progress={"percent": float(percent)})])
        answer, is_quick = doors.ask_quick(scope)
        assert is_quick
        assert f'"percent":{percent}.0'.encode() in b"".join(answer.body)
    lifecycle.finish([Outcome(job=job, result="done")])
    assert b'"result":"done"' in b"".join(check_same(doors, scope, is_sure=True).body)


def test_a_header_that_belongs_to_one_answer_alone_is_not_learned(doors: Doors) -> None:
    """A view that tells how many requests are left is asked each time."""

    async def limiting(scope: Any, receive: Any, send: Any) -> None:
        async def with_limit(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"RateLimit", b'"read";r=5')]}
            await send(message)

        await doors.view(scope, receive, with_limit)

    job = new_job()
    doors.quick._app = limiting
    scope = poll(job.pk, noted_token(job.owner))
    for _ in range(3):
        answer, is_quick = doors.ask_quick(scope)
        assert (answer.header(b"ratelimit"), is_quick) == (b'"read";r=5', False)


def test_polls_are_the_views_while_the_database_is_away(doors: Doors) -> None:
    job = new_job()
    scope = poll(job.pk, noted_token(job.owner))
    check_same(doors, scope, is_sure=True)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE jobs_token RENAME TO jobs_token_away")
    try:
        _, is_quick = doors.ask_quick(scope)
        assert not is_quick
        _, is_quick = doors.ask_quick(scope)  # not even tried
        assert not is_quick
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE jobs_token_away RENAME TO jobs_token")
