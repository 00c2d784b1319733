"""The OpenAPI document says what the API does."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from config.openapi.submissions import component_name
from jobs.api.serializers import EventSerializer, JobSerializer, ReceiptSerializer, SingleJobSerializer
from jobs.api.submission import Accepted, receipt
from jobs.kinds import all_kinds
from jobs.log import history
from jobs.models import Job
from jobs.representation import event_as_dict, job_as_dict, single_job_as_dict
from tests.factories import claimed_job, new_job
from tests.jobs.api_client import Caller
from tests.jobs.test_api import api_paths

PARAMETER = re.compile(r"<[^>]+>|\{[^}]+\}")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    out = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    made: dict[str, Any] = yaml.safe_load(out.getvalue())
    return made


def test_the_document_is_valid_and_made_without_a_warning(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()
    components = document["components"]
    for problem in components["responses"].values():
        assert set(problem["content"]) == {"application/problem+json"}


def test_each_kind_has_a_submission_and_params_of_its_own(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for kind in all_kinds():
        submission = schemas[component_name(kind, "Submission")]
        assert submission["properties"]["kind"] == {"type": "string", "const": kind.name}
        assert submission["additionalProperties"] is False
        params = schemas[component_name(kind, "Params")]
        assert set(params["properties"]) == set(kind.params().fields) - set(kind.file_params)
        Draft202012Validator.check_schema(params)
    form = schemas["SubmissionForm"]
    assert set(form["properties"]) == {"job", *(name for kind in all_kinds() for name in kind.file_params)}


def test_what_is_refused_is_refused_by_the_document_too(document: dict[str, Any]) -> None:
    content = document["paths"]["/api/jobs"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"] | {"components": document["components"]}
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    assert validator.is_valid({"kind": "demo.countdown", "params": {"seconds": 1}, "team": None})
    for wrong in (
        {},
        {"kind": "no.such"},
        {"kind": "csv.report"},
        {"kind": "demo.countdown", "colour": "red"},
        {"kind": "demo.countdown", "params": {"steps": 0}},
        {"kind": "demo.countdown", "priority": 101},
        {"kind": "demo.countdown", "priority": None},
    ):
        assert not validator.is_valid(wrong), wrong


@pytest.mark.django_db
def test_the_document_is_served_as_json_and_yaml_and_told_unchanged() -> None:
    client = Client()
    response = client.get("/api/schema")
    assert response["Content-Type"] == "application/json"
    assert response.json()["openapi"] == "3.1.1"
    assert client.get("/api/schema", headers={"If-None-Match": response["ETag"]}).status_code == 304
    as_yaml = client.get("/api/schema", headers={"Accept": "application/yaml"})
    assert yaml.safe_load(as_yaml.content)["paths"].keys() == response.json()["paths"].keys()


@pytest.mark.django_db
def test_the_page_shows_each_operation_and_loads_nothing_from_elsewhere(document: dict[str, Any]) -> None:
    response = Client().get("/api/docs", headers={"Accept-Language": "id"})
    assert response.status_code == 200
    page = response.content.decode()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f'id="{operation["operationId"]}"' in page
            assert f"{method.upper()} {path}" in page
    targets = re.findall(r'href="#([^"]+)"', page)
    assert {each for each in targets if not each.startswith("i-")} <= set(re.findall(r' id="([^"]+)"', page))
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "<script>" not in page
    assert "style=" not in page


def test_the_document_has_every_path_and_each_operation_a_name_of_its_own(document: dict[str, Any]) -> None:
    unlisted = ("schema", "docs", "artifact")
    paths = {f"/{PARAMETER.sub('{}', route)}" for route, pattern in api_paths() if pattern.name not in unlisted}
    assert {PARAMETER.sub("{}", path) for path in document["paths"]} == paths
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
