"""The polling door: each view reads the request, calls one function of the room, and answers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils.http import parse_etags
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs import artifact_urls, lifecycle, log, retention
from jobs.api import listing, streams, submission, waiting
from jobs.api.authentication import user_of
from jobs.api.errors import Problem
from jobs.api.params_schema import params_schema
from jobs.api.parsers import StrictJSONParser
from jobs.api.serializers import (
    AllEventsSerializer,
    JobEventsSerializer,
    JobListSerializer,
    KindSerializer,
    ProblemSerializer,
    ReceiptSerializer,
    SingleJobSerializer,
    SubmissionSerializer,
)
from jobs.api.streams import Grant
from jobs.estimates import with_estimates
from jobs.kinds import all_kinds
from jobs.log import Position, finishing_artifacts, position_of
from jobs.models import Event, Job, Status
from jobs.representation import event_as_dict, single_job_as_dict, status_url
from jobs.subscribers import subscribers
from jobs.visibility import Viewer, viewer_of

RETRY_AFTER_SECONDS = 1
LARGEST_SEQUENCE = 2**31 - 1

PROBLEMS = {
    400: ProblemSerializer,
    401: ProblemSerializer,
    404: ProblemSerializer,
    422: ProblemSerializer,
    503: ProblemSerializer,
}
JOB_OR_UNCHANGED = {
    200: SingleJobSerializer,
    304: OpenApiResponse(description="As `If-None-Match` has it."),
    **PROBLEMS,
}
IF_NONE_MATCH = OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER)
WAIT = OpenApiParameter("wait", int, description="Hold the answer up to so many seconds (1 to 60) until it changes.")


def viewer(request: Request) -> Viewer:
    """Tell what the asker may see."""
    return viewer_of(user_of(request), request.auth, request._request.session.session_key)


def visible_job(request: Request, job_id: UUID) -> Job:
    """Find a job that the asker may see.

    Raises:
        Http404: there is none, or it is another's.
    """
    job = listing.with_artifacts(Job.objects.filter(viewer(request).visible(), pk=job_id)).first()
    if job is None:
        raise Http404
    return job


def changeable_job(request: Request, job_id: UUID) -> Job:
    """Find a job that the asker may change: the owner and staff may, team mates only read.

    Raises:
        Http404: there is none, or it is not theirs to see.
        Problem: they may see it and not change it.
    """
    job = visible_job(request, job_id)
    if job.owner_id != user_of(request).pk and not request.user.is_staff:
        raise Problem(HTTPStatus.FORBIDDEN, "Only the job's owner and staff may do this.")
    return job


def shown(job: Job) -> dict[str, Any]:
    return with_estimates(job, single_job_as_dict(job, finishing_artifacts(job)))


def is_among(etag: str, known: Iterable[str]) -> bool:
    """Compare weakly, as `If-None-Match` has it (RFC 9110 §8.8.3.2)."""
    return any(each == "*" or each.removeprefix("W/") == etag.removeprefix("W/") for each in known)


def shown_events(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Show events, each with the job's row that was read along with it: one read before may lack the result."""
    return [event_as_dict(event, job, finishing_artifacts(job)) for event in events if (job := event.job)]


def etag_of(job: Job) -> str:
    """Name a job's state: its version, and the window of its signed URLs; estimates stand outside."""
    return f'W/"{job.version}-{artifact_urls.window()}"'


class Jobs(APIView):
    """All jobs of the asker."""

    parser_classes = [StrictJSONParser, MultiPartParser]

    @extend_schema(
        operation_id="submitJob",
        request=SubmissionSerializer,
        responses={
            202: ReceiptSerializer,
            200: ReceiptSerializer,
            409: ProblemSerializer,
            413: ProblemSerializer,
            **PROBLEMS,
        },
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)],
    )
    def post(self, request: Request) -> Response:
        """Submit a job. Files go as parts of a multipart form, beside a part `job` with the JSON."""
        accepted = submission.submit(request)
        status = HTTPStatus.OK if accepted.is_standing else HTTPStatus.ACCEPTED
        receipt = submission.receipt(accepted)
        receipt["job"] = with_estimates(accepted.job, receipt["job"])
        response = Response(receipt, status=status)
        response["Location"] = status_url(accepted.job.id)
        response["Retry-After"] = str(RETRY_AFTER_SECONDS)
        if accepted.is_replay:
            response["Idempotent-Replayed"] = "true"
        return response

    @extend_schema(
        operation_id="listJobs",
        responses={200: JobListSerializer, **PROBLEMS},
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
        ],
    )
    def get(self, request: Request) -> Response:
        """List jobs, newest first. `metadata.<key>=` filters by metadata."""
        return Response(listing.jobs_page(viewer(request), request.query_params))


class OneJob(APIView):
    """One job."""

    @extend_schema(operation_id="getJob", responses=JOB_OR_UNCHANGED, parameters=[WAIT, IF_NONE_MATCH])
    def get(self, request: Request, job_id: UUID) -> Response:
        """Read a job: its status, its progress, and its result once it is completed."""
        seconds = waiting.seconds_to_wait(request)
        job = visible_job(request, job_id)
        etag = etag_of(job)
        known = parse_etags(request.headers.get("If-None-Match", ""))
        is_known = is_among(etag, known)
        response = Response(status=HTTPStatus.NOT_MODIFIED) if is_known else Response(shown(job))
        response["ETag"] = etag
        response["Cache-Control"] = "private, no-cache"
        if not job.is_final:
            response["Retry-After"] = str(RETRY_AFTER_SECONDS)
            if seconds and (is_known or not known):
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
        if request.query_params.get("force") != "true" and any(each.has_open_work(job_id) for each in subscribers()):
            raise Problem(HTTPStatus.CONFLICT, "A delivery is still to be made; wait for it, or add ?force=true.")
        if not retention.remove([job_id]):
            raise Problem(HTTPStatus.CONFLICT, "The job runs again; cancel it first.")
        return Response(status=HTTPStatus.NO_CONTENT)


class JobStatus(OneJob):
    """The same under the path that polls use."""

    http_method_names = ["get", "head", "options"]

    @extend_schema(operation_id="getJobStatus", responses=JOB_OR_UNCHANGED, parameters=[WAIT, IF_NONE_MATCH])
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


class JobEvents(APIView):
    """The log of one job."""

    @extend_schema(
        operation_id="listJobEvents",
        responses={200: JobEventsSerializer, (200, "text/event-stream"): str, **PROBLEMS},
        parameters=[
            OpenApiParameter("after", int, description="The last sequence that you have."),
            OpenApiParameter("Last-Event-ID", str, OpenApiParameter.HEADER, description="The same, for streams."),
            WAIT,
        ],
    )
    def get(self, request: Request, job_id: UUID) -> Response:
        """Read a job's events, or, with `Accept: text/event-stream`, have them as they happen."""
        seconds, after = waiting.seconds_to_wait(request), _after(request)
        job = visible_job(request, job_id)
        if streams.is_asked_for(request):
            is_over = job.is_final and after >= job.sequence
            seen_by = viewer(request)
            return streams.granted(Grant(viewer=seen_by, job_id=job_id, after=after, is_over=is_over))
        events = shown_events(log.history(job_id, after))
        response = Response({"events": events, "next": events[-1]["sequence"] if events else after})
        if seconds and not events and not job.is_final:
            waiting.mark(response, seconds=seconds, job_id=job_id)
        return response


class AllEvents(APIView):
    """The log of all jobs that the asker sees."""

    @extend_schema(
        operation_id="listEvents",
        responses={
            200: AllEventsSerializer,
            (200, "text/event-stream"): str,
            410: ProblemSerializer,
            **PROBLEMS,
        },
        parameters=[
            OpenApiParameter("cursor", str, description="`next` of the answer before; without it: from now on."),
            OpenApiParameter("scope", str, enum=["all"], description="Staff: everybody's jobs."),
            WAIT,
        ],
    )
    def get(self, request: Request) -> Response:
        """Read the events of all jobs, or, with `Accept: text/event-stream`, have them as they happen."""
        seconds = waiting.seconds_to_wait(request)
        cursor = request.headers.get("Last-Event-ID") or request.query_params.get("cursor")
        position: Position = position_of(cursor) if cursor else log.here()
        scope_all, seen_by = request.query_params.get("scope") == "all", viewer(request)
        if streams.is_asked_for(request):
            return streams.granted(Grant(viewer=seen_by, cursor=position.as_cursor(), scope_all=scope_all))
        visible = seen_by.visible(scope_all=scope_all)
        page = log.read(position, visible)
        while not page.events and not page.is_last:
            page = log.read(page.position, visible)
        events = shown_events(event for event, _ in page.events)
        response = Response({"events": events, "next": page.position.as_cursor()})
        if seconds and not events and cursor:
            waiting.mark(response, seconds=seconds, job_id=None)
        return response


class Kinds(APIView):
    """What can be run."""

    @extend_schema(operation_id="listKinds", responses={200: KindSerializer(many=True), 401: ProblemSerializer})
    def get(self, request: Request) -> Response:
        """List the kinds of jobs, with the JSON Schema of their params."""
        return Response(
            [
                {
                    "kind": kind.name,
                    "title": kind.title,
                    "description": kind.description,
                    "paramsSchema": params_schema(kind.params()),
                    "timeout": kind.timeout_seconds,
                    "maxAttempts": kind.max_attempts,
                }
                for kind in all_kinds()
            ]
        )


def _after(request: Request) -> int:
    """Read the last sequence that a reader has: from the header of a stream that goes on, else from the query."""
    text = request.headers.get("Last-Event-ID") or request.query_params.get("after") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= LARGEST_SEQUENCE):
        raise ValidationError({"after": ["This must be a sequence: a whole number from 0."]})
    return int(text)
