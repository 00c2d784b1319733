"""The webhooks' API: what is registered, what signs, what was sent."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.api.authentication import user_of
from jobs.api.serializers import ProblemSerializer
from jobs.models import Scope
from notifications import destinations
from notifications.api.serializers import (
    DeliveryListSerializer,
    DeliverySerializer,
    NewWebhookSerializer,
    SecretSerializer,
    WebhookSerializer,
    changed,
)
from notifications.listener import remove_deliveries
from notifications.models import Delivery, DeliveryStatus, Webhook
from notifications.webhooks.secrets import callback_secret
from notifications.webhooks.signing import new_secret

PAGE = 50
PROBLEMS = {401: ProblemSerializer, 404: ProblemSerializer, 422: ProblemSerializer}


def own_webhook(request: Request, webhook_id: UUID) -> Webhook:
    """Find one of the asker's webhooks.

    Raises:
        Http404: there is none, or it is another's.
    """
    webhook = Webhook.objects.filter(owner=request.user.pk, pk=webhook_id).first()
    if webhook is None:
        raise Http404
    return webhook


class Webhooks(APIView):
    """The asker's webhooks."""

    @extend_schema(operation_id="listWebhooks", responses={200: WebhookSerializer(many=True), **PROBLEMS})
    def get(self, request: Request) -> Response:
        """List the registered URLs."""
        return Response(WebhookSerializer(Webhook.objects.filter(owner=request.user.pk).order_by("id"), many=True).data)

    @extend_schema(
        operation_id="createWebhook",
        request=WebhookSerializer,
        responses={201: NewWebhookSerializer, 400: ProblemSerializer, **PROBLEMS},
    )
    def post(self, request: Request) -> Response:
        """Register a URL; the answer shows the secret that signs what is sent to it."""
        serializer = WebhookSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        endpoint = destinations.endpoint_for(user_of(request).pk, serializer.validated_data["url"])
        webhook = Webhook.objects.create(
            **serializer.validated_data, owner=user_of(request), endpoint=endpoint, secret=new_secret()
        )
        headers = {"Cache-Control": "no-store", "Location": f"{settings.PUBLIC_URL}/api/webhooks/{webhook.pk}"}
        return Response(NewWebhookSerializer(webhook).data, status=HTTPStatus.CREATED, headers=headers)


class OneWebhook(APIView):
    """One webhook."""

    @extend_schema(operation_id="getWebhook", responses={200: WebhookSerializer, **PROBLEMS})
    def get(self, request: Request, webhook_id: UUID) -> Response:
        """Read a webhook, without its secret."""
        return Response(WebhookSerializer(own_webhook(request, webhook_id)).data)

    @extend_schema(
        operation_id="changeWebhook", request=WebhookSerializer, responses={200: WebhookSerializer, **PROBLEMS}
    )
    def patch(self, request: Request, webhook_id: UUID) -> Response:
        """Change a webhook; turning it on again forgets why it was off."""
        webhook = own_webhook(request, webhook_id)
        serializer = WebhookSerializer(data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        return Response(WebhookSerializer(changed(webhook, serializer.validated_data)).data)

    @extend_schema(operation_id="deleteWebhook", responses={204: None, **PROBLEMS})
    def delete(self, request: Request, webhook_id: UUID) -> Response:
        """Forget a webhook; what waits to be sent to it is dropped."""
        webhook = own_webhook(request, webhook_id)
        with transaction.atomic():
            remove_deliveries(Delivery.objects.filter(webhook=webhook, status=DeliveryStatus.PENDING))
            webhook.delete()
        return Response(status=HTTPStatus.NO_CONTENT)


class WebhookSecret(APIView):
    """What signs a webhook."""

    scopes = {"GET": Scope.MANAGE}

    @extend_schema(operation_id="getWebhookSecret", responses={200: SecretSerializer, **PROBLEMS})
    def get(self, request: Request, webhook_id: UUID) -> Response:
        """Read the secret that signs what is sent to a webhook."""
        return Response({"secret": own_webhook(request, webhook_id).secret}, headers={"Cache-Control": "no-store"})


class UserCallbackSecret(APIView):
    """What signs the callbacks of the asker's jobs."""

    scopes = {"GET": Scope.MANAGE}

    @extend_schema(operation_id="getCallbackSecret", responses={200: SecretSerializer, **PROBLEMS})
    def get(self, request: Request) -> Response:
        """Read the secret that signs what is sent to a `callbackUrl`; it is made when it is first asked for."""
        return Response({"secret": callback_secret(user_of(request).pk).secret}, headers={"Cache-Control": "no-store"})


class Deliveries(APIView):
    """What was sent for the asker's jobs, and what waits."""

    @extend_schema(
        operation_id="listDeliveries",
        responses={200: DeliveryListSerializer, **PROBLEMS},
        parameters=[
            OpenApiParameter("webhook", OpenApiTypes.UUID),
            OpenApiParameter("job", OpenApiTypes.UUID),
            OpenApiParameter("status", str, enum=DeliveryStatus.values),
            OpenApiParameter("cursor", str),
        ],
    )
    def get(self, request: Request) -> Response:
        """List deliveries, newest first, with each attempt."""
        found = own_deliveries(request)
        for name, column in (("webhook", "webhook"), ("job", "job"), ("cursor", "pk__lt")):
            if (value := request.query_params.get(name)) is not None:
                found = found.filter(**{column: as_uuid(name, value)})
        if (status := request.query_params.get("status")) is not None:
            if status not in DeliveryStatus.values:
                raise ValidationError({"status": [f"There is no status {status}."]})
            found = found.filter(status=status)
        rows = list(found.order_by("-id")[: PAGE + 1])
        cursor = str(rows[PAGE - 1].pk) if len(rows) > PAGE else None
        return Response({"items": DeliverySerializer(rows[:PAGE], many=True).data, "nextCursor": cursor})


class OneDelivery(APIView):
    """One delivery."""

    @extend_schema(operation_id="getDelivery", responses={200: DeliverySerializer, **PROBLEMS})
    def get(self, request: Request, delivery_id: UUID) -> Response:
        """Read a delivery with each attempt."""
        delivery = own_deliveries(request).filter(pk=delivery_id).first()
        if delivery is None:
            raise Http404
        return Response(DeliverySerializer(delivery).data)


def own_deliveries(request: Request) -> QuerySet[Delivery]:
    """Find the deliveries of the asker's jobs and batches; each user has endpoints of one's own."""
    found = Delivery.objects.filter(endpoint__user=request.user.pk)
    return found.select_related("event").prefetch_related("tries")


def as_uuid(name: str, value: Any) -> UUID:
    """Read an id in the query.

    Raises:
        ValidationError: it isn't one.
    """
    try:
        return UUID(value)
    except ValueError as error:
        raise ValidationError({name: ["This is not one of ours."]}) from error
