"""Files that no row names, and those that one does."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.files.base import ContentFile

from jobs import lifecycle, retention
from jobs.models import Artifact, Upload
from jobs.representation import event_id
from jobs.sql import statements
from jobs.sweeper import strays
from jobs.sweeper.strays import STRAY
from tests.factories import new_job, new_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.MEDIA_ROOT = tmp_path
    monkeypatch.setattr(strays, "_reached", {})
    return tmp_path


def id_of(moment: datetime) -> UUID:
    """Make a UUIDv7 of a time."""
    return event_id(uuid4(), 1, moment)


def old_id() -> UUID:
    return id_of(statements().now() - 2 * STRAY)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"content")
    return path


def test_an_old_file_without_a_row_goes_and_with_it_its_empty_folder(media: Path) -> None:
    upload = put(media / f"uploads/{old_id()}")
    artifact = put(media / f"artifacts/{old_id()}/{old_id()}.csv")
    assert strays.sweep() == 2
    assert not upload.exists()
    assert not artifact.parent.exists()


def test_a_young_file_waits_for_its_row_and_a_foreign_one_is_left_alone(media: Path) -> None:
    young = put(media / f"artifacts/{old_id()}/{id_of(statements().now())}.csv")
    foreign = [put(media / "uploads/README"), put(media / f"uploads/{uuid4()}"), put(media / "other/file")]
    assert strays.sweep() == 0
    assert all(each.exists() for each in [young, *foreign])


def test_a_file_with_a_row_stays_however_old_it_is(media: Path) -> None:
    job, now = new_job(), statements().now()
    upload = Upload(id=old_id(), owner=new_user(), name="a.csv", size=1, sha256="0" * 64, created_at=now)
    upload.file.save(f"uploads/{upload.id}", ContentFile(b"a"))
    artifact = Artifact(
        id=old_id(), job=job, fence=1, attempt=1, name="a", content_type="", size=1, sha256="", created_at=now
    )
    artifact.file.save(f"artifacts/{job.id}/{artifact.id}.txt", ContentFile(b"a"))
    assert strays.sweep() == 0
    assert (media / str(upload.file)).exists()
    assert (media / str(artifact.file)).exists()


def test_rounds_go_through_a_large_folder_and_begin_anew(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "BATCH", 2)
    for _ in range(5):
        put(media / f"uploads/{old_id()}")
    assert [strays.sweep() for _ in range(4)] == [2, 2, 1, 0]
    put(media / f"uploads/{old_id()}")
    assert strays.sweep() == 1


@pytest.mark.django_db(transaction=True)
def test_what_a_crash_left_of_a_removed_job_goes(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, now = new_job(), statements().now()
    lifecycle.cancel(job.id)
    artifact = Artifact(
        id=old_id(), job=job, fence=1, attempt=1, name="a", content_type="", size=1, sha256="", created_at=now
    )
    artifact.file.save(f"artifacts/{job.id}/{artifact.id}.txt", ContentFile(b"a"))
    monkeypatch.setattr(retention, "_delete_artifacts", lambda files: None)  # the process is gone before it comes to it
    assert retention.remove([job.id]) == 1
    path = media / str(artifact.file)
    assert path.exists()
    assert strays.sweep() == 1
    assert not path.parent.exists()
