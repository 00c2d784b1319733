"""One's own tokens: seen, made and revoked; and watch tokens, which are short-lived and only read."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api.access import viewer
from jobs.api.authentication import user_of
from jobs.api.serializers import ProblemSerializer
from jobs.api.token_serializers import (
    NewTokenSerializer,
    TokenRequestSerializer,
    TokenSerializer,
    WatchTokenRequestSerializer,
    WatchTokenSerializer,
)
from jobs.credentials import MadeToken, make_token, make_watch_token
from jobs.models import Job, Scope, Token
from jobs.representation import as_time

UNSTORED = {"Cache-Control": "no-store"}
"""For answers that hold a token (RFC 6749 §5.1 asks the same)."""
PROBLEMS = {401: ProblemSerializer, 404: ProblemSerializer, 422: ProblemSerializer}


class WatchTokens(APIView):
    """Tokens for pages: whoever has one sees what its maker sees, for minutes."""

    scopes = {"POST": Scope.READ}

    @extend_schema(
        operation_id="createWatchToken",
        request=WatchTokenRequestSerializer,
        responses={201: WatchTokenSerializer, 400: ProblemSerializer, **PROBLEMS},
    )
    def post(self, request: Request) -> Response:
        """Make a read-only token that may stand in a URL as `?token=`, for one job or for all that you see."""
        asked = WatchTokenRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        expires_in = timedelta(seconds=asked.validated_data["expires_in"])
        made = watch_token_for(request, asked.validated_data["job_id"], expires_in)
        job_id: UUID | None = made.row.job_id
        shown = {"token": made.text, "expiresAt": as_time(made.row.expiry), "jobId": job_id and str(job_id)}
        return Response(shown, status=HTTPStatus.CREATED, headers=UNSTORED)


class Tokens(APIView):
    """The asker's tokens."""

    scopes = {"GET": Scope.MANAGE, "POST": Scope.MANAGE}

    @extend_schema(operation_id="listTokens", responses={200: TokenSerializer(many=True), **PROBLEMS})
    def get(self, request: Request) -> Response:
        """List your tokens, the newest first, without their texts; watch tokens are left out."""
        return Response(TokenSerializer(own_tokens(request).order_by("-id"), many=True).data)

    @extend_schema(
        operation_id="createToken",
        request=TokenRequestSerializer,
        responses={201: NewTokenSerializer, 400: ProblemSerializer, **PROBLEMS},
    )
    def post(self, request: Request) -> Response:
        """Make a token, shown only in this answer. It may do no more and live no longer than the one you ask with."""
        asked = TokenRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        seconds: int | None = asked.validated_data["expires_in"]
        made = token_for(
            request,
            asked.validated_data["name"],
            [Scope(each) for each in asked.validated_data["scopes"]],
            timedelta(seconds=seconds) if seconds else None,
        )
        shown = {**TokenSerializer(made.row).data, "token": made.text}
        return Response(shown, status=HTTPStatus.CREATED, headers=UNSTORED)


class OneToken(APIView):
    """One of the asker's tokens."""

    @extend_schema(operation_id="deleteToken", responses={204: None, **PROBLEMS})
    def delete(self, request: Request, token_id: UUID) -> Response:
        """Revoke a token, and the watch tokens that were made with it; it may be the one that you ask with."""
        token = own_tokens(request).filter(id=token_id).first()
        if token is None:
            raise Http404
        token.delete()
        return Response(status=HTTPStatus.NO_CONTENT)


def own_tokens(request: Request) -> QuerySet[Token]:
    """Find the asker's tokens, watch tokens left out."""
    tokens: QuerySet[Token] = Token.objects.filter(user=user_of(request)).exclude(scopes=[Scope.WATCH.value])
    return tokens


def watch_token_for(request: Request, job_id: UUID | None, expires_in: timedelta) -> MadeToken:
    """Make a watch token for whoever asks.

    Raises:
        ValidationError: there is no such job, or it isn't theirs to see.
    """
    if job_id and not Job.objects.filter(viewer(request).visible(), pk=job_id).exists():
        raise ValidationError({"jobId": ["There is no such job, or it is not yours to see."]})
    return make_watch_token(
        user_of(request),
        expires_in=expires_in,
        job_id=job_id,
        parent=request.auth if isinstance(request.auth, Token) else None,
        session=request._request.session.session_key,
    )


def token_for(request: Request, name: str, scopes: list[Scope], expires_in: timedelta | None) -> MadeToken:
    """Make a token for whoever asks.

    Raises:
        ValidationError: it would be able to do more, or live longer, than the token that they ask with.
    """
    auth = request.auth if isinstance(request.auth, Token) else None
    if auth and auth.scopes:
        if beyond := [each for each in scopes if each not in auth.scopes]:
            raise ValidationError({"scopes": [f"The token that you ask with hasn't the scope {beyond[0]} itself."]})
        scopes = scopes or [Scope(each) for each in auth.scopes]
    expires_at = timezone.now() + expires_in if expires_in else None
    if auth and auth.expiry:
        if expires_at and expires_at > auth.expiry:
            raise ValidationError({"expiresIn": ["The token that you ask with expires before."]})
        expires_at = expires_at or auth.expiry
    return make_token(user_of(request), name, scopes=scopes, expires_at=expires_at)
