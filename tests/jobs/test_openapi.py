"""The OpenAPI document says what the API does."""

from __future__ import annotations

import io
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

from jobs.api.serializers import EventSerializer, JobSerializer, ReceiptSerializer, SingleJobSerializer
from jobs.api.submission import Accepted, receipt
from jobs.kinds import all_kinds
from jobs.log import history
from jobs.models import Job
from jobs.representation import event_as_dict, job_as_dict, single_job_as_dict
from tests.factories import claimed_job, new_job
from tests.jobs.api_client import Caller
from tests.jobs.test_api import api_paths


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    out = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    made: dict[str, Any] = yaml.safe_load(out.getvalue())
    return made


def test_the_document_is_valid_and_made_without_a_warning(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")


def test_the_document_has_every_path_and_each_operation_a_name_of_its_own(document: dict[str, Any]) -> None:
    paths = {f"/{route}" for route, pattern in api_paths() if pattern.name not in ("schema", "artifact")}
    assert {path.replace("{", "<uuid:").replace("}", ">") for path in document["paths"]} == paths
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names))
    for each in operations:
        assert "401" in each["responses"], each["operationId"]
        assert each.get("description"), each["operationId"]


def named(serializer: type[Any]) -> set[str]:
    return set(serializer().fields)


@pytest.mark.django_db
def test_the_job_is_declared_as_it_is_shown() -> None:
    job = Job.objects.get(pk=new_job().pk)
    assert set(job_as_dict(job)) == named(JobSerializer)
    assert set(single_job_as_dict(job)) == named(SingleJobSerializer)
    assert set(receipt(Accepted(job=job))) == named(ReceiptSerializer)
    (event,) = history(job.pk)
    assert set(event_as_dict(event, job)) == named(EventSerializer)


@pytest.mark.django_db
def test_what_is_shown_fits_what_is_declared(document: dict[str, Any]) -> None:
    caller = Caller()
    job = claimed_job(caller.user)
    answers = {
        "SingleJob": caller.get(f"/api/jobs/{job.pk}").json(),
        "JobList": caller.get("/api/jobs").json(),
        "JobEvents": caller.get(f"/api/jobs/{job.pk}/events").json(),
        "Receipt": caller.submit().json(),
        "Problem": caller.submit(kind="no.such").json(),
    }
    for name, answer in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(answer)


@pytest.mark.django_db
def test_params_schemas_are_sound_and_take_what_the_kind_takes() -> None:
    kinds = {each["kind"]: each for each in Caller().get("/api/kinds").json()}
    assert set(kinds) == {kind.name for kind in all_kinds()}
    for each in kinds.values():
        Draft202012Validator.check_schema(each["paramsSchema"])
    countdown = Draft202012Validator(kinds["demo.countdown"]["paramsSchema"])
    assert countdown.is_valid({"seconds": 1.5, "steps": 2})
    assert not countdown.is_valid({"seconds": -1})
    assert not countdown.is_valid({"colour": "red"})
