"""A process is killed after each statement, each commit and each send of what it does: nothing is lost or doubled.

What a caller was told before is kept, and after a sweep each job has ended once, its log has no gap, and each event was
delivered under one id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from django.core.files.base import ContentFile

from jobs import lifecycle, retention
from jobs.context import Context
from jobs.failures import AlreadySubmitted
from jobs.kinds import get_kind
from jobs.lifecycle import Idempotency, Outcome, Submission
from jobs.models import Artifact, Batch, Event, EventType, IdempotencyKey, Job, Status
from jobs.sql import statements
from notifications import destinations
from notifications.models import Delivery, Webhook
from notifications.webhooks import dispatch, envelope
from notifications.webhooks.signing import new_secret
from tests.e2e.receiver import Receiver, receiving
from tests.factories import new_user, played
from tests.faults.afterwards import (
    check_batches,
    check_deliveries,
    check_logs,
    deliver_the_rest,
    let_time_pass,
    recover,
)
from tests.faults.crash import Act, Crash, Say, crashes

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

COUNTDOWN = "demo.countdown"
PARAMS = {"seconds": 0, "steps": 1, "failures": 0}
HEARD = [EventType.ACCEPTED, EventType.STARTED, EventType.RETRYING, EventType.COMPLETED, EventType.FAILED]
HEARD += [EventType.CANCELLED]
HAND = 3


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    settings.WEBHOOK_ALLOW_HOSTS = "127.0.0.1"
    dispatch.sender.cache_clear()
    with receiving() as running:
        yield running
    dispatch.sender.cache_clear()


@dataclass
class Scene:
    """A user whose every event is heard by a webhook, and what was submitted in their name."""

    url: str
    heard: list[EventType]
    owner_id: int = 0
    job_ids: list[UUID] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner_id = new_user().pk
        Webhook.objects.create(
            owner_id=self.owner_id,
            endpoint=destinations.endpoint_for(self.owner_id, self.url),
            url=self.url,
            event_types=[each.value for each in self.heard],
            secret=new_secret(),
        )

    def submission(self, **values: object) -> Submission:
        return Submission(kind=get_kind(COUNTDOWN), owner_id=self.owner_id, params=PARAMS, **values)  # type: ignore[arg-type]

    def submit(self, count: int = 1, **values: object) -> list[Job]:
        jobs = lifecycle.accept([self.submission(**values) for _ in range(count)])
        self.job_ids += [job.pk for job in jobs]
        return jobs

    def claim(self, count: int = 1, worker: UUID | None = None) -> list[Job]:
        return lifecycle.claim("default", worker or uuid4(), count, [COUNTDOWN])


@dataclass
class Story:
    """An act that is cut off at each of its steps, with the scenes of all its runs."""

    receiver: Receiver
    heard: list[EventType] = field(default_factory=lambda: HEARD)
    scenes: list[Scene] = field(default_factory=list)

    def scene(self) -> Scene:
        self.scenes.append(Scene(url=self.receiver.url, heard=self.heard))
        return self.scenes[-1]

    def play(self, prepare: Callable[[Scene], Act], check: Callable[[Crash, Scene], None] | None = None) -> int:
        """Cut the act off after each step, recover, and see that all is well.

        Args:
            prepare: sets a scene, and gives the act.
            check: sees to what is true of this act alone, right after the crash.

        Returns:
            How many steps the act has.
        """
        steps = 0
        for crash in crashes(lambda: prepare(self.scene())):
            scene = self.scenes[-1]
            try:
                if check:
                    check(crash, scene)
                recover()
                check_logs(self.everybodys_jobs(scene))
                check_batches()
                check_deliveries(self.heard)
            except AssertionError as error:
                raise AssertionError(f"killed after step {crash.step}, {crash.last_step}: {error}") from error
            steps = crash.step - crash.is_survivor
        return steps

    def everybodys_jobs(self, scene: Scene) -> set[UUID]:
        found = Job.objects.filter(owner=scene.owner_id).values_list("pk", flat=True)
        return {*scene.job_ids, *found}


@pytest.fixture
def story(receiver: Receiver) -> Story:
    return Story(receiver)


def said_ids(crash: Crash) -> set[UUID]:
    return {UUID(each) for each in crash.said}


def test_accepting_jobs(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        def act(say: Say) -> None:
            for job in lifecycle.accept([scene.submission(), scene.submission(unique_key="one")]):
                say(job.pk)

        return act

    def check(crash: Crash, scene: Scene) -> None:
        standing = set(Job.objects.filter(owner=scene.owner_id).values_list("pk", flat=True))
        assert len(standing) in (0, 2), "half of a submission stands"
        assert said_ids(crash) <= standing, "a promise is lost"

    assert story.play(prepare, check) >= 5


def test_accepting_a_job_under_an_idempotency_key_and_asking_again(story: Story) -> None:
    def key_of(scene: Scene) -> Idempotency:
        return Idempotency(key="once", owner_id=scene.owner_id, fingerprint="f" * 64)

    def prepare(scene: Scene) -> Act:
        def act(say: Say) -> None:
            say(lifecycle.accept([scene.submission()], key_of(scene))[0].pk)

        return act

    def check(crash: Crash, scene: Scene) -> None:
        made: UUID | None
        try:
            made = lifecycle.accept([scene.submission()], key_of(scene))[0].pk
        except AlreadySubmitted as again:
            made = again.known.job_id
        assert said_ids(crash) <= {made}
        assert Job.objects.filter(owner=scene.owner_id).count() == 1, "the client's second try made another job"
        assert IdempotencyKey.objects.get(owner=scene.owner_id).job_id == made

    assert story.play(prepare, check) >= 6


def test_accepting_a_batch(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        def act(say: Say) -> None:
            batch, _ = lifecycle.accept_batch([scene.submission() for _ in range(3)], scene.owner_id)
            say(batch.pk)

        return act

    def check(crash: Crash, scene: Scene) -> None:
        batches = set(Batch.objects.filter(owner=scene.owner_id).values_list("pk", flat=True))
        assert said_ids(crash) <= batches
        assert Job.objects.filter(owner=scene.owner_id).count() == 3 * len(batches), "half of a batch stands"

    assert story.play(prepare, check) >= 6


def test_claiming_a_hand(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit(HAND)
        return lambda _say: scene.claim(HAND)

    assert story.play(prepare) >= 4


def test_ending_a_hand_and_claiming_the_next(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit(2 * HAND)
        worker = uuid4()
        hand = scene.claim(HAND, worker)

        def act(say: Say) -> None:
            error = {"code": "broken", "message": "It broke."}
            outcomes = [
                played(hand[0], result=1),
                played(hand[1], error=error),
                played(hand[2], error=error, retry=False),
            ]
            traded = lifecycle.trade(outcomes, lifecycle.wanted("default", worker, HAND, [COUNTDOWN]))
            for pk in traded.ended:
                say(pk)

        return act

    def check(crash: Crash, scene: Scene) -> None:
        ended = [pk for pk in said_ids(crash) if Job.objects.get(pk=pk).attempt == 1]
        assert len(ended) == len(crash.said), "an end that was written is lost"

    assert story.play(prepare, check) >= 6


def test_writing_progress_and_log_lines(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit()
        (job,) = scene.claim()
        now = statements().now()
        beat = lifecycle.Beat(job=job, progress={"percent": 50.0}, version=2, lines=[{"level": "info"}], moments=[now])
        return lambda _say: lifecycle.beat([beat])

    assert story.play(prepare) >= 3


def test_rescuing_what_lost_workers_left(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit(2)
        scene.submit(max_attempts=1)
        for _ in range(3):
            scene.claim()
        let_time_pass()
        return lambda _say: lifecycle.rescue(10)

    assert story.play(prepare) >= 8


def test_rescuing_a_dead_childs_hand(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit(HAND)
        worker = uuid4()
        hand = scene.claim(HAND, worker)
        return lambda _say: lifecycle.rescue_worker(worker, hand[0].pk, ["default"])

    assert story.play(prepare) >= 6


@pytest.mark.parametrize("begun", [False, True], ids=["pending", "running"])
def test_cancelling(story: Story, begun: bool) -> None:
    def prepare(scene: Scene) -> Act:
        (job,) = scene.submit()
        if begun:
            scene.claim()
        return lambda say: say(lifecycle.cancel(job.pk).status)

    def check(crash: Crash, scene: Scene) -> None:
        if crash.said:
            job = Job.objects.get(pk=scene.job_ids[0])
            assert job.cancel_requested_at
            assert crash.said == [job.status]

    assert story.play(prepare, check) >= 4


def test_reopening(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        (job,) = scene.submit()
        lifecycle.cancel(job.pk)
        return lambda say: say(lifecycle.reopen(job.pk, by="somebody").status)

    def check(crash: Crash, scene: Scene) -> None:
        types = list(Event.objects.filter(job=scene.job_ids[0]).order_by("sequence").values_list("type", flat=True))
        is_reopened = types == [EventType.ACCEPTED, EventType.CANCELLED, EventType.RETRYING]
        assert is_reopened or (not crash.said and types == [EventType.ACCEPTED, EventType.CANCELLED])

    assert story.play(prepare, check) >= 6


def test_promoting_what_is_due(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit(2, run_at=statements().now() + timedelta(hours=1))
        let_time_pass()
        return lambda _say: lifecycle.promote(10)

    assert story.play(prepare) >= 4


def test_expiring_what_may_not_begin_any_more(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit(start_within_seconds=60)
        scene.submit(deadline_seconds=60)
        past = statements().now() - timedelta(seconds=1)
        Job.objects.filter(pk=scene.job_ids[0]).update(start_by=past)
        Job.objects.filter(pk=scene.job_ids[1]).update(finish_by=past)
        return lambda _say: lifecycle.expire(10)

    def check(crash: Crash, scene: Scene) -> None:
        statuses = set(Job.objects.filter(pk__in=scene.job_ids).values_list("status", flat=True))
        assert len(statuses) == 1, "one of a round's transaction, and not the other"
        assert not crash.is_survivor or statuses == {Status.FAILED}

    assert story.play(prepare, check) >= 6


def test_the_end_of_a_batch(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        lifecycle.accept_batch([scene.submission() for _ in range(HAND)], scene.owner_id)
        hand = scene.claim(HAND)
        return lambda _say: lifecycle.trade([played(job, result=1) for job in hand], None)

    def check(crash: Crash, scene: Scene) -> None:
        if crash.is_survivor:
            assert Event.objects.filter(owner_id=scene.owner_id, type=EventType.BATCH_COMPLETED).count() == 1

    assert story.play(prepare, check) >= 8


def test_delivering(story: Story) -> None:
    story.heard = [EventType.ACCEPTED]

    def prepare(scene: Scene) -> Act:
        scene.submit(2)
        return lambda _say: dispatch.deliver()

    def check(crash: Crash, scene: Scene) -> None:
        deliver_the_rest()
        arrived = {each.headers["webhook-id"] for each in story.receiver.received}
        sent = Delivery.objects.select_related("event", "job").filter(job__in=scene.job_ids)
        assert {str(envelope.id_of(each.event)) for each in sent} <= arrived

    assert story.play(prepare, check) >= 12
    events = Event.objects.filter(type=EventType.ACCEPTED).count()
    assert len({each.headers["webhook-id"] for each in story.receiver.received}) == events


def test_attaching_a_file_and_completing(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        scene.submit()
        (job,) = scene.claim()

        def act(_say: Say) -> None:
            Context(job).attach("report.txt", ContentFile(b"content"))
            lifecycle.finish([Outcome(job=job, result=1)])

        return act

    def check(crash: Crash, scene: Scene) -> None:
        job = Job.objects.get(pk=scene.job_ids[0])
        artifacts = list(Artifact.objects.filter(job=job))
        assert len(artifacts) == 1 or job.status != Status.COMPLETED
        for each in artifacts:
            with each.file.open() as file:
                assert file.read() == b"content"

    assert story.play(prepare, check) >= 5


def test_removing_what_has_had_its_time(story: Story) -> None:
    def prepare(scene: Scene) -> Act:
        gone, _ = scene.submit(2)
        lifecycle.cancel(gone.pk)
        scene.job_ids.remove(gone.pk)
        return lambda say: say(retention.remove([gone.pk]) and gone.pk)

    def check(crash: Crash, scene: Scene) -> None:
        left = Job.objects.filter(owner=scene.owner_id).exclude(pk__in=scene.job_ids).first()
        events = Event.objects.filter(owner_id=scene.owner_id).exclude(job__in=scene.job_ids)
        assert events.count() == (2 if left else 0), "half of a job is gone"
        assert not (left and crash.said), "what was removed stands again"

    assert story.play(prepare, check) >= 8
