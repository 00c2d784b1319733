"""Jobs from the shell: submitted by the API's checks, listed and watched."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from pytest_django import Settings

from jobs import lifecycle
from jobs.lifecycle import Beat
from jobs.management.terminal import printable
from jobs.models import Job, Upload
from tests.factories import claimed_job, new_job, new_user, played
from tests.jobs.api_client import Caller

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> tuple[str, int]:
    """Run a command and give what it printed on stdout, and its exit code."""
    stdout, code = io.StringIO(), 0
    try:
        call_command(*arguments, stdout=stdout)
    except SystemExit as end:
        code = int(end.code or 0)
    except CommandError as error:
        code = error.returncode
    return stdout.getvalue(), code


def submitted(*arguments: str) -> Job:
    printed, code = run("submit", *arguments)
    assert code == 0
    return Job.objects.get(pk=printed.strip())


@pytest.fixture
def admin() -> Any:
    """Give the only superuser."""
    return new_user(is_superuser=True)


# --- submit -----------------------------------------------------------------------------------------------------------


def test_a_submission_prints_the_id_of_the_only_superusers_job(admin: Any) -> None:
    job = submitted("demo.countdown", "seconds=1.5", "steps:=3")
    assert (job.owner, job.kind, job.status) == (admin, "demo.countdown", "PENDING")
    assert job.params == {"seconds": 1.5, "steps": 3, "failures": 0}


def test_options_may_stand_before_and_among_the_params(admin: Any) -> None:
    job = submitted("--tag", "a", "demo.countdown", "seconds=1", "--priority", "3", "steps=2", "--tag", "b")
    assert (job.params["seconds"], job.params["steps"], job.priority, job.tags) == (1, 2, 3, ["a", "b"])


def test_all_that_a_submission_may_say_can_be_said(admin: Any) -> None:
    team = Group.objects.create(name="sales")
    owner = new_user()
    owner.groups.add(team)
    options = ["--user", owner.username, "--team", "sales", "--tag", "a", "--tag", "b", "--priority", "-5"]
    options += ["--run-at", "2100-01-01T00:00:00Z", "--max-attempts", "7", "--timeout", "30", "--deadline", "600"]
    options += ["--start-within", "60", "--unique-key", "u", "--idempotency-key", "i"]
    job = submitted("demo.countdown", *options)
    assert (job.owner, job.team, job.tags, job.priority) == (owner, team, ["a", "b"], -5)
    assert job.run_at
    assert job.run_at.year == 2100
    assert (job.max_attempts, job.timeout_seconds, job.deadline_seconds, job.start_within_seconds) == (7, 30, 600, 60)
    assert submitted("demo.countdown", *options) == job  # the idempotency key made it before
    other = submitted("demo.countdown", "--user", owner.username, "--unique-key", "u")
    assert other == job
    replaced = submitted("demo.countdown", "--user", owner.username, "--unique-key", "u", "--on-conflict", "replace")
    assert replaced != job


def test_the_receipt_is_the_apis(admin: Any) -> None:
    printed, code = run("submit", "demo.countdown", "--json")
    receipt = json.loads(printed)
    assert (code, receipt["status"], receipt["job"]["kind"]) == (0, "ACCEPTED", "demo.countdown")
    assert set(receipt) == set(Caller().submit().json())


def test_a_file_is_read_and_kept(admin: Any, tmp_path: Path, settings: Settings) -> None:
    settings.MEDIA_ROOT = tmp_path / "kept"
    (tmp_path / "sales=2026.csv").write_text("a,b\n1,2\n")
    job = submitted("csv.report", "--file", f"file={tmp_path}/sales=2026.csv")
    assert job.params["file"] == "sales=2026.csv"
    upload = Upload.objects.get(jobs=job)
    with upload.file.open() as kept:
        assert kept.read() == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["no.kind"], ["kind: There is no kind 'no.kind'"]),
        (
            ["demo.countdown", "seconds=x", "stepz=3", "--priority", "500"],
            ["priority: ", "seconds: A valid number", "stepz: There is no such parameter."],
        ),
        (["demo.countdown", "seconds:=[1]"], ["seconds: "]),
        (["demo.countdown", "steps:=1e400"], ["steps: This number is too large."]),
        (["demo.countdown", "--run-at", "tomorrow"], ["runAt: "]),
        (["demo.countdown", "--team", "nobody's"], ["team: You are in no team"]),
        (["csv.report"], ["file: No file was submitted."]),
        (["csv.report", "file=text"], ["file: Send this file as a part"]),
        (["demo.countdown", "--idempotency-key", ""], ["Idempotency-Key must be"]),
    ],
)
def test_what_is_wrong_is_said_in_a_line_for_each_field(
    admin: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], lines: list[str]
) -> None:
    assert run("submit", *arguments) == ("", 2)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(lines)
    assert all(each.startswith(line) for each, line in zip(told, lines, strict=True))
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seconds"], "write key=text or key:=JSON"),
        (["seconds:={"], "is no JSON"),
        (["seconds:=NaN"], "is no JSON"),
        (["seconds=1", "seconds=2"], "given twice"),
        (["--file", "path"], "--file key=path"),
        (["--file", "file=/nowhere"], "No such file"),
        (["--user", "nobody"], "no active user"),
    ],
)
def test_a_command_line_that_says_nothing_sensible_is_refused(admin: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message) as refused:
        call_command("submit", "demo.countdown", *arguments)
    assert refused.value.returncode == 2


def test_a_file_over_the_limit_of_uploads_is_refused(
    admin: Any, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.MAX_UPLOAD_BYTES = 10
    (tmp_path / "sales.csv").write_text("a,b\n1,2\n3,4\n")
    assert run("submit", "csv.report", "--file", f"file={tmp_path}/sales.csv") == ("", 2)
    assert "too large" in capsys.readouterr().err
    assert not Upload.objects.exists()


@pytest.mark.parametrize(("superusers", "words"), [(0, "no superuser"), (2, "more than one superuser")])
def test_without_an_only_superuser_the_command_asks_whose_job_it_is(superusers: int, words: str) -> None:
    for _ in range(superusers):
        new_user(is_superuser=True)
    with pytest.raises(CommandError, match=f"{words}; say by --user NAME"):
        call_command("submit", "demo.countdown")
    owner = new_user()
    assert submitted("demo.countdown", "--user", owner.username).owner == owner


def test_somebody_who_was_turned_away_starts_no_job() -> None:
    owner = new_user(is_active=False)
    with pytest.raises(CommandError, match="no active user"):
        call_command("submit", "demo.countdown", "--user", owner.username)


# --- watch ------------------------------------------------------------------------------------------------------------


def test_a_finished_job_is_told_from_its_first_event_to_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    job = claimed_job()
    lines = [{"level": "warning", "message": "red \x1b[31m \u202e"}]
    lifecycle.beat([Beat(job=job, lines=lines, moments=[job.created_at])])
    lifecycle.finish([played(job, result={"steps": 5, "word": "né\x9b"})])
    printed, code = run("watch", str(job.pk))
    assert (json.loads(printed), code) == ({"steps": 5, "word": "né\x9b"}, 0)
    assert printed.isascii() is False
    assert "\x9b" not in printed
    told = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        f"accepted as {job.pk}",
        "attempt 1 of 3 has begun",
        "warning: red \\u001b[31m \\u202e",
        "completed",
    ]


def test_a_failed_job_tells_its_attempts_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    job = claimed_job(max_attempts=2)
    lifecycle.finish([played(job, error={"code": "busy", "message": "Not now."}, retry_after=0)])
    Job.objects.update(ready_at=job.created_at)
    (again,) = lifecycle.claim("default", new_job().id)
    lifecycle.finish([played(again, error={"code": "busy", "message": "Still not."}, retry=False)])
    assert run("watch", str(job.pk)) == ("", 1)
    told = capsys.readouterr().err
    assert "busy: Not now.; the next attempt at" in told
    assert "failed after attempt 2: busy: Still not." in told


def test_the_whole_job_is_printed_as_json_however_it_ended() -> None:
    job = new_job()
    lifecycle.cancel(job.pk)
    printed, code = run("watch", str(job.pk), "--json")
    shown = json.loads(printed)
    assert (shown["jobId"], shown["status"], code) == (str(job.pk), "CANCELLED", 1)
    assert shown["params"] == job.params


def test_a_job_that_there_is_not_ends_the_watch() -> None:
    with pytest.raises(CommandError, match="There is no job") as refused:
        call_command("watch", "01a21044-e150-76b8-af5c-4d7742caf69d")
    assert refused.value.returncode == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é € 漢\nnext", "plain é € 漢\nnext"),
        ("\x1b[2J\r\x07\x9b\x7f", "\\u001b[2J\\r\\u0007\\u009b\\u007f"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\U000e0001", "\\udb40\\udc01"),
    ],
)
def test_a_terminal_gets_nothing_that_it_would_obey(text: str, shown: str) -> None:
    assert printable(text) == shown


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_kinds_are_listed_with_their_params() -> None:
    printed, code = run("kinds")
    assert code == 0
    assert "csv.report  CSV report" in printed
    assert "  file: file, required  The CSV file" in printed
    assert '  delimiter: one of "," ";"' in printed
    assert "  seconds: number, default 5  How long it takes in all." in printed


def test_kinds_as_json_are_the_apis() -> None:
    printed, _ = run("kinds", "--json")
    assert json.loads(printed) == Caller().get("/api/kinds").json()
