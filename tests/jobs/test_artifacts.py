"""What an HTTP client may ask of an artifact beside the whole of it: several ranges, conditions, any storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage, storages
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from jobs import lifecycle, retention
from jobs.api.byte_ranges import MOST_RANGES
from jobs.artifact_urls import signed_url
from jobs.files import keep
from jobs.lifecycle import Outcome
from jobs.models import Artifact
from tests.factories import claimed_job

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.django_db

BODY = bytes(range(256)) * 4
TYPE = "image/png"


class WithoutPaths(Storage):
    """A storage whose files lie in no folder, as an object store's don't."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def _save(self, name: str, content: File[bytes]) -> str:
        self.files[name] = content.read()
        return name

    def _open(self, name: str, mode: str = "rb") -> File[bytes]:
        if name not in self.files:
            raise FileNotFoundError(name)
        return ContentFile(self.files[name])

    def exists(self, name: str) -> bool:
        return name in self.files

    def delete(self, name: str) -> None:
        self.files.pop(name, None)


@pytest.fixture(autouse=True)
def files(settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path


def new_artifact(body: bytes = BODY, name: str = "chart.png", content_type: str = TYPE) -> Artifact:
    """Attach a file to a job, and complete it."""
    job = claimed_job()
    row = Artifact(
        job=job,
        fence=job.fence,
        attempt=job.attempt,
        name=name,
        content_type=content_type,
        size=len(body),
        sha256="ab" * 32,
        created_at=timezone.now(),
    )
    keep(row.file, f"{job.id}/{name}", ContentFile(body))
    row.save()
    lifecycle.finish([Outcome(job=job)])
    return row


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(row: Artifact, method: str = "get", **headers: str) -> Answer:
    """Ask for an artifact; underscores in headers' names stand for hyphens."""
    url = urlsplit(signed_url(row))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = getattr(Client(), method)(f"{url.path}?{url.query}", headers=named)
    body = response.getvalue()
    return Answer(status=response.status_code, headers=response.headers, body=body)


def test_several_ranges_come_in_one_body_with_parts() -> None:
    response = ask(new_artifact(), Range="bytes=0-3, 100-199,-1")
    body = response.body
    assert response.status == 206
    assert response.headers["Content-Length"] == str(len(body))
    assert "Content-Range" not in response.headers
    message = message_from_bytes(b"Content-Type: " + response.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    assert message.get_content_type() == "multipart/byteranges"
    parts = cast("list[Message]", message.get_payload())
    assert [(part["Content-Type"], part["Content-Range"]) for part in parts] == [
        (TYPE, "bytes 0-3/1024"),
        (TYPE, "bytes 100-199/1024"),
        (TYPE, "bytes 1023-1023/1024"),
    ]
    boundary = message.get_boundary()
    for expected in (BODY[:4], BODY[100:200], BODY[-1:]):
        assert b"\r\n\r\n" + expected + f"\r\n--{boundary}".encode() in body


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-,0-,0-",  # more than the whole
        "bytes=" + ",".join(f"{each}-{each}" for each in range(MOST_RANGES + 1)),
        "bytes=0-3,5-2",  # one is none, so all are
    ],
)
def test_what_would_send_too_much_or_is_no_range_gets_the_whole(asked: str) -> None:
    response = ask(new_artifact(), Range=asked)
    assert (response.status, response.body) == (200, BODY)


def test_of_ranges_only_those_that_are_there_are_sent() -> None:
    row = new_artifact()
    response = ask(row, Range="bytes=5000-,10-11")
    assert (response.status, response.body) == (206, BODY[10:12])
    assert response.headers["Content-Range"] == "bytes 10-11/1024"
    assert ask(row, Range="bytes=5000-,6000-").status == 416


def test_if_range_takes_a_tag_or_the_exact_date() -> None:
    row = new_artifact()
    dated = formatdate(row.created_at.timestamp(), usegmt=True)
    for good in (f'"{row.sha256}"', dated):
        assert ask(row, Range="bytes=0-1", If_Range=good).status == 206
    later = formatdate(row.created_at.timestamp() + 10, usegmt=True)
    for other in (f'W/"{row.sha256}"', '"x"', later, "yesterday"):
        assert ask(row, Range="bytes=0-1", If_Range=other).status == 200


def test_a_copy_that_is_still_good_is_not_sent_again() -> None:
    row = new_artifact()
    whole = ask(row)
    assert whole.body == BODY
    for condition in ({"If_None_Match": whole.headers["ETag"]}, {"If_Modified_Since": whole.headers["Last-Modified"]}):
        response = ask(row, **condition, Range="bytes=0-1")
        assert (response.status, response.body) == (304, b"")
        assert response.headers["ETag"] == whole.headers["ETag"]
        assert response.headers["Cache-Control"] == whole.headers["Cache-Control"]
    assert ask(row, If_Match='"other"').status == 412
    assert ask(row, If_None_Match='"other"').status == 200


def test_head_says_what_get_would_and_sends_nothing() -> None:
    row = new_artifact()
    response = ask(row, "head", Range="bytes=0-1")
    assert (response.status, response.body) == (200, b"")
    assert (response.headers["Content-Length"], response.headers["Content-Type"]) == ("1024", TYPE)
    row.file.storage.delete(str(row.file.name))
    assert ask(row, "head").status == 404


def test_an_empty_file_is_served() -> None:
    row = new_artifact(b"")
    response = ask(row)
    assert (response.status, response.body, response.headers["Content-Length"]) == (200, b"", "0")
    assert ask(row, Range="bytes=0-").status == 416


def test_files_may_lie_in_any_storage_of_django(
    settings: Settings, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": f"{__name__}.WithoutPaths"}}
    storage = storages["default"]
    row = new_artifact()
    with pytest.raises(NotImplementedError):
        _ = row.file.path
    assert ask(row).body == BODY
    assert ask(row, Range="bytes=1-2").body == BODY[1:3]
    name = str(row.file.name)
    with django_capture_on_commit_callbacks(execute=True):
        assert retention.remove([row.job_id]) == 1
    assert not storage.exists(name)
    assert ask(row).status == 404
