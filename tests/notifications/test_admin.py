"""What operators see and may do in the admin of the notifications room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from jobs.models import Job
from notifications import destinations
from notifications.models import Delivery, DeliveryAttempt, DeliveryStatus, Webhook
from tests.factories import new_job, new_user

pytestmark = pytest.mark.django_db

SECRET = "whsec_c2VjcmV0LW5vYm9keS1zZWVz"
URL = "https://hooks.example.org/<script>alert(1)</script>"


@pytest.fixture
def client() -> Client:
    """Return a client that may do everything."""
    client = Client()
    client.force_login(new_user(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def webhook() -> Webhook:
    owner = new_user()
    endpoint = destinations.endpoint_for(owner.pk, URL)
    return Webhook.objects.create(
        owner=owner, endpoint=endpoint, url=URL, event_types=["job.*"], secret=SECRET, previous_secret=SECRET
    )


def delivered(webhook: Webhook) -> tuple[Job, Delivery]:
    """Have a job accepted whose first event was sent to a webhook, which answered with 500."""
    job = new_job(webhook.owner)
    delivery = Delivery.objects.get(job=job)
    DeliveryAttempt.objects.create(
        delivery=delivery,
        number=1,
        at=timezone.now(),
        duration_seconds=0.25,
        status_code=500,
        answer_start="<script>alert(2)</script>",
    )
    return job, delivery


def page_of(row: Job | Delivery | Webhook) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def read(client: Client, path: str, **query: str) -> str:
    response = client.get(path, query)
    assert response.status_code == 200, (path, response.status_code)
    return str(response.content.decode())


def test_a_jobs_page_shows_its_deliveries_with_their_attempts(client: Client, webhook: Webhook) -> None:
    job, delivery = delivered(webhook)
    page = read(client, page_of(job))
    assert "job.accepted 1" in page
    assert "1. 500, 250 ms" in page
    assert page_of(delivery) in page
    assert "<script>alert" not in page


def test_a_jobs_page_costs_the_same_for_one_delivery_and_for_many(
    client: Client, webhook: Webhook, django_assert_num_queries: Callable[[int], Any]
) -> None:
    job, delivery = delivered(webhook)
    for number in (2, 3):
        DeliveryAttempt.objects.create(delivery=delivery, number=number, at=timezone.now(), duration_seconds=1)
        other = Webhook.objects.create(owner=webhook.owner, endpoint=webhook.endpoint, url=URL, secret=SECRET)
        Delivery.objects.create(
            endpoint=webhook.endpoint,
            webhook=other,
            is_callback=False,
            url=URL,
            event=delivery.event,
            job=job,
            created_at=timezone.now(),
        )
        with django_assert_num_queries(8):  # session, user, job, owner, events, artifacts, deliveries, attempts
            read(client, page_of(job))


def test_deliveries_are_shown_on_a_jobs_page_only_to_who_may_view_them(webhook: Webhook) -> None:
    job, _ = delivered(webhook)
    user, client = new_user(is_staff=True), Client()
    client.force_login(user)
    user.user_permissions.add(Permission.objects.get(codename="view_job"))
    assert "hooks.example.org" not in read(client, page_of(job))
    user.user_permissions.add(Permission.objects.get(codename="view_delivery"))
    assert "hooks.example.org" in read(client, page_of(job))


@pytest.mark.parametrize(
    ("query", "finds"),
    [
        ({}, True),
        ({"status": "PENDING"}, True),
        ({"status": "FAILED"}, False),
        ({"for": "webhook"}, True),
        ({"for": "callback"}, False),
        ({"created": "hour"}, True),
        ({"q": str(UUID(int=0))}, False),
        ({"q": "hooks"}, False),
    ],
)
def test_the_list_of_deliveries_is_filtered(
    client: Client, webhook: Webhook, query: dict[str, str], finds: bool
) -> None:
    _, delivery = delivered(webhook)
    assert (page_of(delivery) in read(client, "/admin/notifications/delivery/", **query)) is finds


def test_deliveries_are_found_by_their_own_id_and_by_their_jobs(client: Client, webhook: Webhook) -> None:
    job, delivery = delivered(webhook)
    for wanted in (job.pk, delivery.pk):
        assert page_of(delivery) in read(client, "/admin/notifications/delivery/", q=str(wanted))


def test_a_list_of_deliveries_costs_the_same_for_one_and_for_many(
    client: Client, webhook: Webhook, django_assert_num_queries: Callable[[int], Any]
) -> None:
    for _ in range(2):
        delivered(webhook)
        with django_assert_num_queries(4):  # session, user, count, rows
            read(client, "/admin/notifications/delivery/")


def test_a_delivery_shows_its_attempts_escaped_and_is_not_changed(client: Client, webhook: Webhook) -> None:
    _, delivery = delivered(webhook)
    page = read(client, page_of(delivery))
    assert "&lt;script&gt;alert(2)" in page
    assert "<script>alert" not in page
    assert client.post(page_of(delivery), {"status": "DELIVERED"}).status_code == 403
    assert Delivery.objects.get().status == DeliveryStatus.PENDING


def test_a_webhooks_secret_is_never_shown(client: Client, webhook: Webhook) -> None:
    pages = [
        read(client, page_of(webhook)),
        read(client, "/admin/notifications/webhook/"),
        read(client, "/admin/notifications/endpoint/"),
        read(client, reverse("admin:notifications_endpoint_change", args=[webhook.endpoint_id])),
    ]
    assert "hooks.example.org" in pages[0]
    assert not any(SECRET in page or "whsec_" in page for page in pages)


def test_a_webhook_is_turned_off_and_on_and_nothing_else_of_it_changes(client: Client, webhook: Webhook) -> None:
    client.post(page_of(webhook), {"url": "https://other.example.org/", "secret": "whsec_eA=="})
    webhook.refresh_from_db()
    assert (webhook.is_active, webhook.url, webhook.secret) == (False, URL, SECRET)
    assert webhook.disabled_reason == "Turned off by the operator."
    client.post(page_of(webhook), {"is_active": "on"})
    webhook.refresh_from_db()
    assert (webhook.is_active, webhook.disabled_reason) == (True, "")


def test_webhooks_endpoints_and_deliveries_are_neither_added_nor_deleted_here(client: Client, webhook: Webhook) -> None:
    _, delivery = delivered(webhook)
    for row in (webhook, webhook.endpoint, delivery):
        name = row._meta.model_name
        assert client.get(reverse(f"admin:notifications_{name}_add")).status_code == 403
        url = reverse(f"admin:notifications_{name}_delete", args=[row.pk])
        assert client.post(url, {"post": "yes"}).status_code == 403
    assert Delivery.objects.exists()
