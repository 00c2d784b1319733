"""The kind `csv.report` as a job: params, progress, log, artifact, result, failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from jobs.builtin.csv_report.handler import csv_report
from jobs.builtin.csv_report.params import CsvReportParams
from jobs.failures import JobFailure
from jobs.kinds import get_kind
from tests.jobs.builtin.csv_report.recording import CancelledForTestError, MemoryFile, RecordingContext

DATA = Path(__file__).resolve().parents[4] / "jobs" / "builtin" / "sample"


def run(context: Any, content: bytes, name: str = "table.csv", **params: str) -> dict[str, Any]:
    result: dict[str, Any] = csv_report(context, {"file": MemoryFile(content=content, name=name), **params})
    return result


def test_the_kind_is_declared() -> None:
    kind = get_kind("csv.report")
    assert kind.handler is csv_report
    assert kind.file_params == ["file"]
    assert (kind.timeout_seconds, kind.max_attempts) == (600, 3)


def test_a_real_file_becomes_a_report_and_a_summary() -> None:
    context = RecordingContext()
    result = run(context, (DATA / "birdstrikes.csv").read_bytes(), "birdstrikes.csv")
    assert (result["rows"], result["columnCount"]) == (10_000, 14)
    assert context.main_file == "report.html"
    assert context.files["report.html"].startswith(b"<!doctype html>")
    assert "birdstrikes.csv" in context.files["report.html"].decode()
    assert context.messages == ["Checking the encoding", "Reading rows", "Drawing charts", "Writing the report"]
    assert context.percents == sorted(context.percents)
    assert context.percents[-1] < 100
    assert ("info", "10,000 rows, 14 columns") in context.lines
    assert len(json.dumps(result, allow_nan=False)) < 200_000


def test_what_the_user_knows_wins_over_what_is_found() -> None:
    context = RecordingContext()
    result = run(context, "a|b;c\nd|é;1\n".encode("cp850"), delimiter=";", encoding="cp850")
    assert result["delimiter"] == ";"
    assert result["columns"][0]["top"] == [{"value": "d|é", "count": 1}]


def test_blank_params_mean_found_from_the_file() -> None:
    assert run(RecordingContext(), b"a;b\n1;2\n", delimiter="", encoding="")["delimiter"] == ";"


def test_odd_rows_are_warned_of_in_the_log() -> None:
    context = RecordingContext()
    result = run(context, b"a,b\n1,2\n3\n")
    assert context.lines[-1][0] == "warning"
    assert result["warnings"] == [context.lines[-1][1]]


def test_a_bad_file_fails_the_job_for_good_and_in_words() -> None:
    with pytest.raises(JobFailure) as caught:
        run(RecordingContext(), b"\x89PNG\r\n\x1a\n....")
    assert (caught.value.code, caught.value.retry) == ("not_a_csv_file", False)
    assert caught.value.message == "This is not a CSV file but a PNG image."


def test_a_cancelled_job_stops_while_it_reads() -> None:
    context = RecordingContext(stop_after=3)
    with pytest.raises(CancelledForTestError):
        run(context, b"a,b\n" + b"1,2\n" * 100_000)
    assert context.messages == ["Checking the encoding", "Reading rows"]
    assert not context.files


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({}, []),
        ({"delimiter": "\t", "encoding": "windows-1252"}, []),
        ({"delimiter": None, "encoding": ""}, []),
        ({"delimiter": "::"}, ["delimiter"]),
        ({"delimiter": "\n"}, ["delimiter"]),
        ({"encoding": "klingon"}, ["encoding"]),
        ({"encoding": "base64"}, ["encoding"]),
        ({"encoding": "unicode_escape"}, ["encoding"]),
        ({"encoding": "a" * 41}, ["encoding"]),
    ],
)
def test_params_are_checked(params: dict[str, str], wrong: list[str]) -> None:
    serializer = CsvReportParams(data={"file": SimpleUploadedFile("a.csv", b"a\n"), **params})
    serializer.is_valid()
    assert list(serializer.errors) == wrong


def test_the_file_is_required() -> None:
    serializer = CsvReportParams(data={})
    assert not serializer.is_valid()
    assert list(serializer.errors) == ["file"]
