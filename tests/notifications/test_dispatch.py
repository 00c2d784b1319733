"""From an event to its deliveries, and from a delivery to its end: who is told what, how often, and by whom."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from jobs import lifecycle
from jobs.lifecycle import Beat, Outcome
from jobs.models import Event, Job
from notifications import destinations
from notifications.listener import new_delivery
from notifications.models import Delivery, DeliveryAttempt, DeliveryStatus, Endpoint, Webhook
from notifications.webhooks import dispatch
from notifications.webhooks.answer import Answer
from notifications.webhooks.schedule import JITTER, MAX_ATTEMPTS, RETRY_GAPS
from notifications.webhooks.signing import new_secret
from tests.e2e.receiver import Receiver, receiving
from tests.factories import claimed_job, new_job, new_user
from tests.waiting import wait_until

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from pytest_django import Settings

pytestmark = pytest.mark.django_db
FINALS = ["job.completed", "job.failed", "job.cancelled"]


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Settings) -> Iterator[None]:
    settings.WEBHOOK_ALLOW_HOSTS = "127.0.0.1"
    sender = dispatch.sender  # a test may put another in its place
    sender.cache_clear()
    yield
    sender.cache_clear()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def registered(owner: User, url: str = "https://1.1.1.1/hook", types: Any = ("job.*",), **values: Any) -> Webhook:
    return Webhook.objects.create(
        owner=owner,
        endpoint=destinations.endpoint_for(owner.pk, url),
        url=url,
        event_types=list(types),
        secret=new_secret(),
        **values,
    )


def with_callback(url: str, owner: User | None = None, events: Any = ("job.accepted",), **values: Any) -> Job:
    return new_job(owner, callback_url=url, callback_events=list(events), **values)


def told() -> list[str]:
    return list(Delivery.objects.order_by("id").values_list("event__type", flat=True))


def make_due() -> None:
    Delivery.objects.filter(status=DeliveryStatus.PENDING).update(next_attempt_at=timezone.now() - timedelta(seconds=1))


def side_by_side(*functions: Callable[[], Any]) -> None:
    def run(function: Callable[[], Any]) -> None:
        try:
            function()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[each]) for each in functions]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


# --- Which deliveries are written -------------------------------------------------------------------------------------


def test_deliveries_are_written_with_their_event_or_not_at_all() -> None:
    owner = new_user()
    registered(owner)
    with transaction.atomic():
        with_callback("https://1.1.1.1/cb", owner)
        assert Delivery.objects.count() == 2
        transaction.set_rollback(True)
    assert (Delivery.objects.count(), Event.objects.count(), Job.objects.count()) == (0, 0, 0)


def test_a_callback_hears_what_its_job_asked_for() -> None:
    job = claimed_job(callback_url="https://1.1.1.1/cb", callback_events=FINALS)
    assert told() == []
    lifecycle.finish([Outcome(job=job)])
    assert told() == ["job.completed"]


def test_a_webhook_hears_of_all_but_log_lines_which_must_be_named() -> None:
    owner = new_user()
    all_of_job = registered(owner)
    lines = registered(owner, types=["job.log"])
    job = claimed_job(owner)
    line = {"level": "info", "message": "x"}
    lifecycle.beat([Beat(job=job, lines=[line], moments=[timezone.now()])])
    lifecycle.beat([Beat(job=job, progress={"percent": 1.0})])
    lifecycle.finish([Outcome(job=job)])
    heard = {hook: [each.event.type for each in hook.deliveries.order_by("event")] for hook in (all_of_job, lines)}
    assert heard == {all_of_job: ["job.accepted", "job.started", "job.completed"], lines: ["job.log"]}


def test_a_webhook_hears_of_its_owners_jobs_of_its_kinds_while_it_is_active() -> None:
    owner = new_user()
    registered(new_user())
    registered(owner, kinds=["csv.report"])
    registered(owner, is_active=False)
    hears = registered(owner, kinds=["demo.countdown"])
    new_job(owner)
    assert [each.webhook for each in Delivery.objects.all()] == [hears]


def test_an_event_is_delivered_once_to_each_webhook_and_callback() -> None:
    owner = new_user()
    webhook = registered(owner)
    job = with_callback("https://1.1.1.1/cb", owner)
    event = Event.objects.get()
    assert Delivery.objects.count() == 2
    for url, hook in (("https://1.1.1.1/hook", webhook), ("https://1.1.1.1/cb", None)):
        with pytest.raises(IntegrityError), transaction.atomic():
            new_delivery(event, job, webhook.endpoint_id, url, hook).save()


def test_a_user_and_host_are_one_endpoint() -> None:
    owner, other = new_user(), new_user()
    with_callback("https://1.1.1.1/a", owner)
    with_callback("https://1.1.1.1:443/b", owner)
    with_callback("https://1.1.1.1:444/b", owner)
    with_callback("https://1.1.1.1/a", other)
    assert sorted(Endpoint.objects.values_list("user", "host")) == sorted(
        [
            (owner.pk, "https://1.1.1.1:443"),
            (owner.pk, "https://1.1.1.1:444"),
            (other.pk, "https://1.1.1.1:443"),
        ]
    )


# --- What comes of an attempt -----------------------------------------------------------------------------------------


def answered(status: int | None, **values: Any) -> Answer:
    fault: dict[str, Any] = {} if status else {"error_code": "timeout", "error": "It took too long."}
    return Answer(status_code=status, duration_seconds=0.1, **fault, **values)


def test_a_failing_receiver_is_tried_ten_times_on_the_schedule() -> None:
    with_callback("https://1.1.1.1/cb")
    begun = timezone.now()
    for number in range(1, MAX_ATTEMPTS + 1):
        delivery = Delivery.objects.get()
        assert (delivery.status, delivery.attempts) == (DeliveryStatus.PENDING, number - 1)
        dispatch.record(delivery, begun, answered(500 if number % 2 else None))
        delivery.refresh_from_db()
        if number < MAX_ATTEMPTS:
            assert delivery.next_attempt_at is not None
            gap = delivery.next_attempt_at - timezone.now()
            planned = RETRY_GAPS[number - 1]
            assert planned * (1 - JITTER) - timedelta(seconds=5) <= gap <= planned * (1 + JITTER)
    assert (delivery.status, delivery.attempts, delivery.next_attempt_at) == (DeliveryStatus.FAILED, 10, None)
    assert delivery.finished_at is not None
    tries = DeliveryAttempt.objects.order_by("number")
    assert [each.number for each in tries] == list(range(1, 11))
    assert {(each.status_code, each.error_code) for each in tries} == {(500, ""), (None, "timeout")}


def test_a_receiver_may_ask_for_more_time() -> None:
    with_callback("https://1.1.1.1/cb")
    dispatch.record(Delivery.objects.get(), timezone.now(), answered(503, retry_after_seconds=3600.0))
    again = Delivery.objects.get().next_attempt_at
    assert again is not None
    assert timedelta(minutes=59) < again - timezone.now() < timedelta(minutes=67)


def test_an_attempt_that_was_written_down_is_not_written_again() -> None:
    with_callback("https://1.1.1.1/cb")
    stale = Delivery.objects.get()
    dispatch.record(Delivery.objects.get(), timezone.now(), answered(204))
    dispatch.record(stale, timezone.now(), answered(500))
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.attempts, DeliveryAttempt.objects.count()) == (DeliveryStatus.DELIVERED, 1, 1)


def test_gone_disables_a_webhook_and_ends_what_waits_for_it() -> None:
    owner = new_user()
    webhook = registered(owner)
    other = registered(owner, url="https://1.1.1.1/other")
    for _ in range(2):
        new_job(owner)
    dispatch.record(webhook.deliveries.order_by("id")[0], timezone.now(), answered(410))
    webhook.refresh_from_db()
    assert not webhook.is_active
    assert "410" in webhook.disabled_reason
    assert DeliveryAttempt.objects.count() == 1
    assert set(webhook.deliveries.values_list("status", flat=True)) == {DeliveryStatus.FAILED}
    assert set(other.deliveries.values_list("status", flat=True)) == {DeliveryStatus.PENDING}
    new_job(owner)
    assert (webhook.deliveries.count(), other.deliveries.count()) == (2, 3)


def test_gone_drops_one_callback_only() -> None:
    owner = new_user()
    for _ in range(2):
        with_callback("https://1.1.1.1/cb", owner)
    first, second = Delivery.objects.order_by("id")
    dispatch.record(first, timezone.now(), answered(410))
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == (DeliveryStatus.FAILED, DeliveryStatus.PENDING)


# --- What is sent -----------------------------------------------------------------------------------------------------


def test_what_is_owed_is_sent_signed_and_in_order(receiver: Receiver) -> None:
    owner = new_user()
    webhook = registered(owner, f"{receiver.url}/hook")
    job = claimed_job(owner)
    lifecycle.finish([Outcome(job=job, result={"n": 1})])
    assert dispatch.deliver() == 3
    envelopes = [each.verified(webhook.secret) for each in receiver.at("/hook")]
    assert [each["sequence"] for each in envelopes] == [1, 2, 3]
    assert envelopes[-1]["data"]["result"] == {"n": 1}
    assert [each["id"] for each in envelopes] == [each.headers["webhook-id"] for each in receiver.received]
    assert dispatch.deliver() == 0
    assert Endpoint.objects.get().owner is None


def test_a_result_over_the_limit_stays_where_the_status_url_has_it(receiver: Receiver, settings: Settings) -> None:
    settings.WEBHOOK_RESULT_LIMIT_BYTES = 100
    for result in ("x" * 98, "x" * 99, "€" * 40):
        job = claimed_job(callback_url=f"{receiver.url}/cb", callback_events=FINALS)
        lifecycle.finish([Outcome(job=job, result=result)])
    dispatch.deliver()
    shown = [json.loads(each.body)["data"] for each in receiver.at("/cb")]
    by_omission = {each.get("resultOmitted", False) for each in shown if each["result"] is None}
    assert sorted(each["result"] is None for each in shown) == [False, True, True]
    assert by_omission == {True}
    assert all(each["statusUrl"] for each in shown)


def test_what_failed_goes_out_again_when_it_is_due(receiver: Receiver) -> None:
    receiver.answers = [500]
    with_callback(f"{receiver.url}/cb")
    assert dispatch.deliver() == 1
    assert dispatch.deliver() == 0
    make_due()
    assert dispatch.deliver() == 1
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert Delivery.objects.get().status == DeliveryStatus.DELIVERED


# --- By whom ----------------------------------------------------------------------------------------------------------


def test_an_endpoint_has_one_owner_until_its_lease_runs_out(receiver: Receiver) -> None:
    with_callback(f"{receiver.url}/cb")
    owned = dispatch.take()
    assert owned is not None
    assert dispatch.take() is None
    assert dispatch.deliver() == 0
    Endpoint.objects.update(owned_until=timezone.now() - timedelta(seconds=1))
    again = dispatch.take()
    assert again is not None
    assert again.owner != owned.owner
    Delivery.objects.update(next_attempt_at=timezone.now() + timedelta(minutes=1))
    assert dispatch.serve(owned) == 0
    make_due()
    assert Endpoint.objects.get().owner == again.owner, "who lost it must not let it go"
    assert dispatch.serve(again) == 1
    assert len(receiver.received) == 1


def test_an_endpoint_that_is_closed_for_a_while_is_left_alone() -> None:
    with_callback("https://1.1.1.1/cb")
    Endpoint.objects.update(open_until=timezone.now() + timedelta(minutes=1))
    assert dispatch.take() is None


@pytest.mark.django_db(transaction=True)
def test_dispatchers_side_by_side_send_each_delivery_once(receiver: Receiver) -> None:
    for _ in range(3):
        owner = new_user()
        for _ in range(4):
            with_callback(f"{receiver.url}/{owner.pk}", owner)
    start = threading.Barrier(4)

    def deliver() -> None:
        start.wait(timeout=20)
        dispatch.deliver()

    side_by_side(*[deliver] * 4)
    dispatch.deliver()
    ids = [each.headers["webhook-id"] for each in receiver.received]
    assert len(ids) == len(set(ids)) == 12
    assert set(Delivery.objects.values_list("status", "attempts")) == {(DeliveryStatus.DELIVERED, 1)}


@pytest.mark.django_db(transaction=True)
def test_an_endpoint_that_hangs_holds_no_other_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, may_go_on = threading.Event(), threading.Event()
    real = dispatch.sender(0).post

    class Sender:
        def post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer:
            if url.endswith("/hangs"):
                hangs.set()
                assert may_go_on.wait(timeout=20)
                return answered(None)
            return real(url, body, headers)

    monkeypatch.setattr(dispatch, "sender", lambda _pid: Sender())
    with_callback(f"{receiver.url}/hangs", new_user())

    def others() -> None:
        try:
            assert hangs.wait(timeout=20)
            for _ in range(3):
                with_callback(f"{receiver.url}/well", new_user())
            dispatch.deliver()
            wait_until(lambda: len(receiver.at("/well")) == 3, 5)
        finally:
            may_go_on.set()

    side_by_side(dispatch.deliver, others)
    assert len(receiver.at("/well")) == 3
    delivery = Delivery.objects.get(url__endswith="/hangs")
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.PENDING, 1)


def test_the_removal_of_a_job_removes_its_deliveries() -> None:
    from jobs import retention

    job = claimed_job(callback_url="https://1.1.1.1/cb", callback_events=FINALS)
    lifecycle.finish([Outcome(job=job)])
    dispatch.record(Delivery.objects.get(), timezone.now(), answered(500))
    assert retention.remove([job.pk]) == 1
    assert (Delivery.objects.count(), DeliveryAttempt.objects.count()) == (0, 0)


def test_who_owned_an_endpoint_and_died_is_followed_by_the_next(receiver: Receiver) -> None:
    with_callback(f"{receiver.url}/cb")
    Endpoint.objects.update(owner=uuid4(), owned_until=timezone.now() + timedelta(seconds=60))
    assert dispatch.deliver() == 0
    Endpoint.objects.update(owned_until=timezone.now() - timedelta(seconds=1))
    assert dispatch.deliver() == 1
