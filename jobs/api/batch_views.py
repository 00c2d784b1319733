"""Batches over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api import batches, waiting
from jobs.api.access import visible_batch
from jobs.api.documented import IDEMPOTENCY_KEY, IF_NONE_MATCH, PROBLEMS, UNCHANGED, WAIT
from jobs.api.etags import conditional, content_etag, is_news_awaited
from jobs.api.scopes import Watchable
from jobs.api.serializers import BatchReceiptSerializer, BatchRequestSerializer, BatchSerializer, ProblemSerializer
from jobs.log import count_jobs
from jobs.models import Scope
from jobs.representation import batch_as_dict


class Batches(APIView):
    """Jobs that are submitted together."""

    scopes = {"POST": Scope.SUBMIT}

    @extend_schema(
        operation_id="submitBatch",
        request=BatchRequestSerializer,
        responses={202: BatchReceiptSerializer, 409: ProblemSerializer, 413: ProblemSerializer, **PROBLEMS},
        parameters=[IDEMPOTENCY_KEY],
    )
    def post(self, request: Request) -> Response:
        """Submit up to 1,000 jobs, all or none; `batch.completed` tells once all of them are final."""
        accepted = batches.submit_batch(request)
        shown = batches.receipts_of(accepted)
        headers = {"Location": shown["batchUrl"], "Retry-After": str(waiting.RETRY_AFTER_SECONDS)}
        if accepted.is_replay:
            headers["Idempotent-Replayed"] = "true"
        return Response(shown, status=HTTPStatus.ACCEPTED, headers=headers)


class OneBatch(Watchable, APIView):
    """One batch."""

    @extend_schema(
        operation_id="getBatch",
        responses={200: BatchSerializer, **UNCHANGED, **PROBLEMS},
        parameters=[WAIT, IF_NONE_MATCH],
    )
    def get(self, request: Request, batch_id: UUID) -> Response:
        """Read how many jobs of a batch stand where."""
        seconds = waiting.seconds_to_wait(request)
        batch = visible_batch(request, batch_id)
        shown = batch_as_dict(batch, count_jobs([batch])[batch.pk], batch.finished_at)
        response = conditional(request, content_etag(shown), lambda: shown)
        if batch.finished_at is None:
            response["Retry-After"] = str(waiting.RETRY_AFTER_SECONDS)
            if seconds and is_news_awaited(request, response):
                until_done = response.status_code != HTTPStatus.NOT_MODIFIED
                waiting.mark_batch(response, seconds=seconds, batch_id=batch_id, until_done=until_done)
        return response
