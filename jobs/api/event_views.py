"""The log over HTTP: that of one job, and that of all jobs that the asker sees."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs import log
from jobs.api import streams, waiting
from jobs.api.access import sees_all, viewer, visible_job
from jobs.api.chosen_fields import chosen_fields, job_fields, trimmed_event
from jobs.api.documented import FIELDS, IF_NONE_MATCH, PROBLEMS, UNCHANGED, WAIT
from jobs.api.etags import conditional, content_etag
from jobs.api.scopes import Watchable
from jobs.api.serializers import AllEventsSerializer, JobEventsSerializer, ProblemSerializer
from jobs.api.streams import Grant
from jobs.log import Position, position_of
from jobs.models import Event

LARGEST_SEQUENCE = 2**31 - 1


class JobEvents(Watchable, APIView):
    """The log of one job."""

    @extend_schema(
        operation_id="listJobEvents",
        responses={200: JobEventsSerializer, (200, "text/event-stream"): str, **UNCHANGED, **PROBLEMS},
        parameters=[
            OpenApiParameter("after", int, description="The last sequence that you have."),
            OpenApiParameter(
                "Last-Event-ID",
                {"type": "integer", "minimum": 0, "maximum": LARGEST_SEQUENCE},
                OpenApiParameter.HEADER,
                description="The same, for streams.",
            ),
            FIELDS,
            WAIT,
            IF_NONE_MATCH,
        ],
    )
    def get(self, request: Request, job_id: UUID) -> Response:
        """Read a job's events, or, with `Accept: text/event-stream`, have them as they happen."""
        seconds, after, names = waiting.seconds_to_wait(request), _after(request), _names(request)
        job = visible_job(request, job_id)
        if streams.is_asked_for(request):
            is_over = job.is_final and after >= job.sequence
            seen_by = viewer(request)
            return streams.granted(Grant(viewer=seen_by, job_id=job_id, after=after, is_over=is_over))
        events = log.history(job_id, after)
        last = events[-1].sequence if events else after
        etag = content_etag(str(job_id), after, last)
        response = conditional(request, etag, lambda: {"events": shown_events(events, names), "next": last})
        if seconds and not events and not job.is_final:
            waiting.mark(response, seconds=seconds, job_id=job_id)
        return response


class AllEvents(Watchable, APIView):
    """The log of all jobs that the asker sees."""

    @extend_schema(
        operation_id="listEvents",
        responses={
            200: AllEventsSerializer,
            (200, "text/event-stream"): str,
            410: ProblemSerializer,
            **UNCHANGED,
            **PROBLEMS,
        },
        parameters=[
            OpenApiParameter("cursor", str, description="`next` of the answer before; without it: from now on."),
            OpenApiParameter("scope", str, enum=["all"], description="Staff: everybody's jobs."),
            FIELDS,
            WAIT,
            IF_NONE_MATCH,
        ],
    )
    def get(self, request: Request) -> Response:
        """Read the events of all jobs, or, with `Accept: text/event-stream`, have them as they happen."""
        seconds, names = waiting.seconds_to_wait(request), _names(request)
        cursor = request.headers.get("Last-Event-ID") or request.query_params.get("cursor")
        position: Position = position_of(cursor) if cursor else log.here()
        scope_all, seen_by = sees_all(request), viewer(request)
        if streams.is_asked_for(request):
            return streams.granted(Grant(viewer=seen_by, cursor=position.as_cursor(), scope_all=scope_all))
        visible = seen_by.visible(scope_all=scope_all)
        page = log.read(position, visible)
        while not page.events and not page.is_last:
            page = log.read(page.position, visible)
        events, following = [event for event, _ in page.events], page.position.as_cursor()
        # Where nothing has come, the cursor that the asker has does as well as the next one.
        etag = content_etag(cursor or following, [event.pk for event in events])
        response = conditional(request, etag, lambda: {"events": shown_events(events, names), "next": following})
        if seconds and not events and cursor:
            waiting.mark_feed(response, seconds=seconds, viewer=seen_by, scope_all=scope_all)
        return response


def shown_events(events: Iterable[Event], names: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Show events as they were read from the log; those whose job was removed meanwhile are left out."""
    return [trimmed_event(shown, names) for event in events if (shown := log.envelope(event))]


def _names(request: Request) -> frozenset[str] | None:
    names = chosen_fields(request, job_fields())
    if names is not None and streams.is_asked_for(request):
        raise ValidationError({"fields": ["Streams carry whole events; leave this out."]})
    return names


def _after(request: Request) -> int:
    """Read the last sequence that a reader has: from the header of a stream that goes on, else from the query."""
    texts = [request.headers.get("Last-Event-ID") or "", request.query_params.get("after", "")]
    sequences = [_sequence(text) for text in texts if text]
    return sequences[0] if sequences else 0


def _sequence(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= LARGEST_SEQUENCE):
        raise ValidationError({"after": ["This must be a sequence: a whole number from 0."]})
    return int(text)
