"""Deliveries go with all their attempts, also while one is being written down."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, transaction

from jobs import lifecycle, retention
from jobs.lifecycle import Outcome
from jobs.sql import statements
from notifications.models import Delivery, DeliveryAttempt
from notifications.webhooks.answer import Answer
from notifications.webhooks.dispatch import record
from tests.factories import claimed_job


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_an_attempt_that_is_written_down_meanwhile_does_not_keep_its_job() -> None:
    job = claimed_job(callback_url="https://1.1.1.1/", callback_events=["job.completed"])
    lifecycle.finish([Outcome(job=job, result={})])
    delivery = Delivery.objects.select_related("endpoint").get()
    is_written, may_commit = threading.Event(), threading.Event()

    def write_down() -> None:
        with transaction.atomic():
            record(delivery, statements().now(), Answer(status_code=500, duration_seconds=0.1))
            is_written.set()
            assert may_commit.wait(10)
        connection.close()

    def remove() -> None:
        removed.append(retention.remove([job.pk]))
        connection.close()

    removed: list[int] = []
    writer, remover = threading.Thread(target=write_down), threading.Thread(target=remove)
    writer.start()
    assert is_written.wait(10)
    remover.start()
    remover.join(0.3)  # it waits for the attempt's transaction, or has gone past it
    may_commit.set()
    for each in (writer, remover):
        each.join(10)
    assert removed == [1]
    assert not Delivery.objects.exists()
    assert not DeliveryAttempt.objects.exists()
