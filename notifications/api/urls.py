"""Paths of the webhooks' API."""

from django.urls import path

from notifications.api import views

urlpatterns = [
    path("webhooks", views.Webhooks.as_view(), name="webhooks"),
    path("webhooks/<uuid:webhook_id>", views.OneWebhook.as_view(), name="webhook"),
    path("webhooks/<uuid:webhook_id>/secret", views.WebhookSecret.as_view(), name="webhook-secret"),
    path("callback-secret", views.UserCallbackSecret.as_view(), name="callback-secret"),
    path("deliveries", views.Deliveries.as_view(), name="deliveries"),
    path("deliveries/<uuid:delivery_id>", views.OneDelivery.as_view(), name="delivery"),
]
