"""Jobs over HTTP: each view reads the request, calls one function of the room, and answers."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs import lifecycle, retention
from jobs.api import listing, reruns, submission, waiting
from jobs.api.access import changeable_job, viewer, visible_job
from jobs.api.chosen_fields import ESTIMATED, chosen_fields, job_fields, single_job_fields, trimmed
from jobs.api.documented import FIELDS, IDEMPOTENCY_KEY, IF_NONE_MATCH, PREFER, PROBLEMS, UNCHANGED, WAIT
from jobs.api.errors import Problem
from jobs.api.etags import conditional, content_etag, is_news_awaited, job_etag
from jobs.api.one_look import job_looked_at, with_one_look
from jobs.api.parsers import StrictJSONParser
from jobs.api.prefer import preferred_wait
from jobs.api.scopes import Watchable
from jobs.api.serializers import (
    JobListSerializer,
    ProblemSerializer,
    ReceiptSerializer,
    RerunSerializer,
    SingleJobSerializer,
    SubmissionSerializer,
)
from jobs.api.submission import Accepted
from jobs.estimates import with_estimates
from jobs.log import finishing_artifacts
from jobs.models import Job, Scope, Status
from jobs.representation import single_job_as_dict, status_url
from jobs.subscribers import subscribers

JOB_OR_UNCHANGED = {200: SingleJobSerializer, **UNCHANGED, **PROBLEMS}
READING = [FIELDS, WAIT, IF_NONE_MATCH]
RECEIPT = {
    202: ReceiptSerializer,
    200: ReceiptSerializer,
    409: ProblemSerializer,
    413: ProblemSerializer,
    **PROBLEMS,
}


def shown(job: Job, names: Collection[str] | None = None) -> dict[str, Any]:
    """Show the single Job, or what was chosen of it; an estimate that nobody wants isn't made."""
    whole = single_job_as_dict(job, finishing_artifacts(job))
    return trimmed(whole if names and ESTIMATED.isdisjoint(names) else with_estimates(job, whole), names)


class Jobs(APIView):
    """All jobs of the asker."""

    scopes = {"POST": Scope.SUBMIT}
    parser_classes = [StrictJSONParser, MultiPartParser]

    @extend_schema(
        operation_id="submitJob",
        request=SubmissionSerializer,
        responses=RECEIPT,
        parameters=[IDEMPOTENCY_KEY, PREFER],
    )
    def post(self, request: Request) -> Response:
        """Submit a job. Files go as parts of a multipart form, beside a part `job` with the JSON."""
        return receipt_of(request, submission.submit(request))

    @extend_schema(
        operation_id="listJobs",
        responses={200: JobListSerializer, **UNCHANGED, **PROBLEMS},
        parameters=[
            OpenApiParameter("status", str, enum=Status.values, many=True),
            OpenApiParameter("kind", str, many=True),
            OpenApiParameter("tag", str, many=True),
            OpenApiParameter("batch", OpenApiTypes.UUID),
            OpenApiParameter("errorCode", str, many=True),
            OpenApiParameter("createdAfter", OpenApiTypes.DATETIME),
            OpenApiParameter("createdBefore", OpenApiTypes.DATETIME),
            OpenApiParameter("cursor", str, description="`nextCursor` of the page before."),
            OpenApiParameter("limit", int, description=f"1 to {listing.LARGEST_PAGE}; {listing.PAGE} if left out."),
            OpenApiParameter("scope", str, enum=["all"], description="Staff: everybody's jobs."),
            FIELDS,
            IF_NONE_MATCH,
        ],
    )
    def get(self, request: Request) -> Response:
        """List jobs, newest first. `metadata.<key>=` filters by metadata."""
        names = chosen_fields(request, job_fields())
        found = listing.find_jobs(viewer(request), request.query_params)
        etag = content_etag(found.next_cursor, [(job.pk, job.version) for job in found.jobs])
        return conditional(request, etag, lambda: listing.page_as_dict(found, names))


class OneJob(Watchable, APIView):
    """One job."""

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Have a bearer token looked up together with the job, where that is read."""
        usual = super().get_authenticators()
        is_reading = self.request is not None and self.request.method in ("GET", "HEAD")
        return with_one_look(usual) if is_reading else usual

    @extend_schema(operation_id="getJob", responses=JOB_OR_UNCHANGED, parameters=READING)
    def get(self, request: Request, job_id: UUID) -> Response:
        """Read a job: its status, its progress, and its result once it is completed."""
        seconds, names = waiting.seconds_to_wait(request), chosen_fields(request, single_job_fields())
        job = job_looked_at(request, job_id) or visible_job(request, job_id)
        response = conditional(request, job_etag(job.version), lambda: shown(job, names))
        if not job.is_final:
            response["Retry-After"] = str(waiting.RETRY_AFTER_SECONDS)
            if seconds and is_news_awaited(request, response):
                waiting.mark(response, seconds=seconds, job_id=job_id)
        return response

    @extend_schema(
        operation_id="deleteJob",
        responses={204: None, 403: ProblemSerializer, 409: ProblemSerializer, **PROBLEMS},
        parameters=[OpenApiParameter("force", bool, description="Also while a delivery is still to be made.")],
    )
    def delete(self, request: Request, job_id: UUID) -> Response:
        """Remove a finished job with its files and deliveries."""
        job = changeable_job(request, job_id)
        if not job.is_final:
            raise Problem(HTTPStatus.CONFLICT, f"The job is {job.status}; cancel it first.")
        if not is_forced(request) and any(each.has_open_work(job_id) for each in subscribers()):
            raise Problem(HTTPStatus.CONFLICT, "A delivery is still to be made; wait for it, or add ?force=true.")
        if not retention.remove([job_id]):
            raise Problem(HTTPStatus.CONFLICT, "The job runs again; cancel it first.")
        return Response(status=HTTPStatus.NO_CONTENT)


class JobStatus(OneJob):
    """The same under the path that polls use."""

    http_method_names = ["get", "head", "options"]

    @extend_schema(operation_id="getJobStatus", responses=JOB_OR_UNCHANGED, parameters=READING)
    def get(self, request: Request, job_id: UUID) -> Response:
        """Read a job: its status, its progress, and its result once it is completed."""
        return super().get(request, job_id)


class CancelJob(APIView):
    """The end of a job before its time."""

    @extend_schema(
        operation_id="cancelJob",
        request=None,
        responses={
            200: SingleJobSerializer,
            202: SingleJobSerializer,
            403: ProblemSerializer,
            409: ProblemSerializer,
            **PROBLEMS,
        },
    )
    def post(self, request: Request, job_id: UUID) -> Response:
        """Cancel a job: a pending one at once (200), a running one within seconds (202)."""
        changeable_job(request, job_id)
        job = lifecycle.cancel(job_id)
        return Response(shown(job), status=HTTPStatus.OK if job.is_final else HTTPStatus.ACCEPTED)


class RetryJob(APIView):
    """Another go of a job that failed or was cancelled."""

    @extend_schema(
        operation_id="retryJob",
        request=None,
        responses={202: SingleJobSerializer, 403: ProblemSerializer, 409: ProblemSerializer, **PROBLEMS},
    )
    def post(self, request: Request, job_id: UUID) -> Response:
        """Run a failed or cancelled job again, under the same id and in the same log."""
        changeable_job(request, job_id)
        job = lifecycle.reopen(job_id, by=request.user.get_username())
        return Response(shown(job), status=HTTPStatus.ACCEPTED, headers={"Location": status_url(job.id)})


class RerunJob(APIView):
    """A job once more, as a new one."""

    scopes = {"POST": Scope.SUBMIT}
    parser_classes = [StrictJSONParser, MultiPartParser]

    @extend_schema(
        operation_id="rerunJob",
        request=RerunSerializer,
        responses={403: ProblemSerializer, **RECEIPT},
        parameters=[IDEMPOTENCY_KEY, PREFER],
    )
    def post(self, request: Request, job_id: UUID) -> Response:
        """Submit a job anew, with changes to what it was submitted with, if any; it stays as it is."""
        return receipt_of(request, reruns.rerun(request, changeable_job(request, job_id)))


def is_forced(request: Request) -> bool:
    """Read `?force=`.

    Raises:
        ValidationError: it is neither true nor false.
    """
    text = request.query_params.get("force", "false")
    if text not in ("true", "false"):
        raise ValidationError({"force": ["This must be true or false."]})
    return text == "true"


def receipt_of(request: Request, accepted: Accepted) -> Response:
    """Answer a submission; where its asker prefers to wait, the answer is held until the job ends."""
    status = HTTPStatus.OK if accepted.is_standing else HTTPStatus.ACCEPTED
    receipt = submission.receipt(accepted)
    receipt["job"] = with_estimates(accepted.job, receipt["job"])
    response = Response(receipt, status=status)
    response["Location"] = status_url(accepted.job.id)
    response["Retry-After"] = str(waiting.RETRY_AFTER_SECONDS)
    if accepted.is_replay:
        response["Idempotent-Replayed"] = "true"
    if seconds := preferred_wait(request.headers.get("Prefer", "")):
        waiting.mark(response, seconds=seconds, job_id=accepted.job.id)
    return response
