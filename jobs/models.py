"""The rows of the jobs room: what was promised, what happened to it, and what came of it.

Only `lifecycle` writes a job's status. `docs/lifecycle.md` draws the life of a job.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.db import models
from django.db.models import F, Q
from knox.models import AbstractAuthToken
from uuid_utils.compat import uuid7


def new_id() -> uuid.UUID:
    """Make a UUIDv7 (RFC 9562 §5.7): sorts by its time of birth, but not by commit, so it is never a cursor."""
    return uuid7()


class Status(models.TextChoices):
    """Where a job stands, in the contract's words."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class EventType(models.TextChoices):
    """What the log tells of, in the contract's words. Progress is state and no row; it goes by push only."""

    ACCEPTED = "job.accepted"
    STARTED = "job.started"
    LOG = "job.log"
    PROGRESS = "job.progress"
    RETRYING = "job.retrying"
    COMPLETED = "job.completed"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    BATCH_COMPLETED = "batch.completed"


FINAL_EVENTS = (EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED)


class Batch(models.Model):
    """Jobs submitted together, whose common end is one event."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    team = models.ForeignKey(
        Group,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="whose members may see it: that of its jobs, where all have the same",
    )
    total = models.PositiveIntegerField()
    sequence = models.PositiveIntegerField(default=0)
    callback_url = models.TextField(default="", blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "batches"
        indexes: ClassVar = [models.Index("id", name="batch_open", condition=Q(finished_at__isnull=True))]

    def __str__(self) -> str:
        return str(self.id)


class Gate(models.IntegerChoices):
    """Where a job stands whose kind lets only so many run at once (`limits`)."""

    NONE = 0, "no limit"
    USER = 1, "waits until fewer jobs of its user run"
    KIND = 2, "waits until fewer jobs of its kind run"
    THROUGH = 3, "counts among those that may run"


class Job(models.Model):
    """One promise to run a handler, its state, and its result."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Each of these keys has an index of its own below, which serves more than the key alone.
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="jobs", db_index=False)
    team = models.ForeignKey(Group, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False)
    batch = models.ForeignKey(Batch, models.SET_NULL, null=True, blank=True, related_name="jobs", db_index=False)
    retried_from = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="+", db_index=False)

    # What was asked for; never changes.
    kind = models.CharField(max_length=100)
    queue = models.CharField(max_length=100)
    params = models.JSONField(default=dict)
    priority = models.SmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField()
    timeout_seconds = models.PositiveIntegerField(help_text="for one attempt")
    start_within_seconds = models.PositiveIntegerField(null=True, blank=True)
    deadline_seconds = models.PositiveIntegerField(null=True, blank=True, help_text="for the whole job")
    unique_key = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001 - null is "none asked for"
    callback_url = models.TextField(default="", blank=True)
    callback_events = models.JSONField(default=list)
    tags = models.JSONField(default=list)
    metadata = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    # Where it stands.
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.PENDING)
    sequence = models.PositiveIntegerField(default=1, help_text="of its last event")
    version = models.PositiveIntegerField(default=1, help_text="rises with each change that the Job shows")
    attempt = models.PositiveIntegerField(default=0, help_text="begun so far, since the last reopening")
    failures = models.PositiveSmallIntegerField(default=0)
    crashes = models.PositiveSmallIntegerField(default=0)
    progress = models.JSONField(null=True)
    error = models.JSONField(null=True)
    traceback = models.TextField(default="", help_text="of the last failed attempt, for operators only")
    result = models.JSONField(null=True)
    log_lines = models.PositiveIntegerField(default=0)
    run_at = models.DateTimeField(null=True, help_text="the earliest time of its next attempt")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True, help_text="when the finished job is removed with its files")
    cancel_requested_at = models.DateTimeField(null=True)
    start_by = models.DateTimeField(null=True)
    finish_by = models.DateTimeField(null=True)

    # When it may be claimed: in the order of priority, turn, id (`docs/decisions/turns-and-limits.md`).
    ready_at = models.DateTimeField(null=True, help_text="in line since then; null while scheduled, held back or begun")
    turn = models.BigIntegerField(default=0, help_text="its place among users who take turns, within its priority")
    gate = models.PositiveSmallIntegerField(choices=Gate, default=Gate.NONE, help_text="where its kind has a limit")

    # Who has it. `fence` rises with every claim and stands in the WHERE of all that a worker writes. A pending job that
    # has a worker is reserved: it lies in the worker's hand, hasn't begun, and is free again when its lease is over.
    fence = models.PositiveIntegerField(default=0)
    worker = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    alone = models.BooleanField(
        default=False, help_text="had or is to have no company in its hand: if its worker is lost, that is its crash"
    )

    class Meta:
        indexes: ClassVar = [
            # Claims walk this one, and nothing but what is due is in it.
            models.Index(
                "queue",
                F("priority").desc(),
                "turn",
                "id",
                name="job_claim",
                condition=Q(status="PENDING", ready_at__isnull=False),
            ),
            # Where a user's next job comes in.
            models.Index(
                fields=["owner", "queue", "priority", "turn"],
                name="job_turn",
                condition=Q(status="PENDING", ready_at__isnull=False),
            ),
            # Who stands first at the gate of a kind, and at that of a user.
            models.Index("kind", "gate", F("priority").desc(), "turn", "id", name="job_gate", condition=Q(gate__gt=0)),
            models.Index(
                "kind",
                "owner",
                "gate",
                F("priority").desc(),
                "turn",
                "id",
                name="job_user_gate",
                condition=Q(gate__gt=0),
            ),
            models.Index(
                "run_at",
                name="job_promote",
                condition=Q(status="PENDING", ready_at__isnull=True, run_at__isnull=False),
            ),
            # What runs. No index has the worker or the lease in it: reserving a job or renewing a lease touches none.
            models.Index("id", name="job_running", condition=Q(status="RUNNING")),
            models.Index("start_by", name="job_start_by", condition=Q(status="PENDING", start_by__isnull=False)),
            models.Index(
                "finish_by",
                name="job_finish_by",
                condition=Q(status="PENDING", finish_by__isnull=False),
            ),
            models.Index("expires_at", name="job_expires", condition=Q(expires_at__isnull=False)),
            # Lists, newest first.
            models.Index(F("owner"), F("id").desc(), name="job_by_owner"),
            models.Index(F("team"), F("id").desc(), name="job_by_team", condition=Q(team__isnull=False)),
            # Without what is pending, or SQLite would look through all of that where a smaller index serves.
            models.Index(
                F("status"),
                F("id").desc(),
                name="job_by_status",
                condition=Q(status__in=["RUNNING", "COMPLETED", "FAILED", "CANCELLED"]),
            ),
            models.Index(F("kind"), F("id").desc(), name="job_by_kind"),
            # How many a user has that aren't final: counted where KABAR_MAX_UNFINISHED is set (`quota`).
            models.Index("owner", "status", name="job_unfinished", condition=Q(status__in=["PENDING", "RUNNING"])),
            models.Index(fields=["batch", "status"], name="job_by_batch", condition=Q(batch__isnull=False)),
            models.Index("retried_from", name="job_retried_from", condition=Q(retried_from__isnull=False)),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["owner", "kind", "unique_key"],
                name="job_unique_key",
                condition=Q(unique_key__isnull=False, status__in=["PENDING", "RUNNING"]),
            ),
            models.CheckConstraint(name="job_priority", condition=Q(priority__gte=-100, priority__lte=100)),
            models.CheckConstraint(
                name="job_running_has_lease", condition=~Q(status="RUNNING") | Q(lease_until__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class Event(models.Model):
    """What happened, in order: the log that every door reads.

    `data` holds what can change from event to event; what can't, and the result, come from the job's row. On
    PostgreSQL the table has one column more, `xid`, by which readers order commits (migration 0002, `log`).
    """

    id = models.BigAutoField(primary_key=True)
    # No constraint on the hot path either: lifecycle writes a job's events in the transaction of its row, and retention
    # removes them in that of its removal.
    job = models.ForeignKey(Job, models.CASCADE, null=True, related_name="events", db_index=False, db_constraint=False)
    batch = models.ForeignKey(Batch, models.CASCADE, null=True, related_name="events", db_index=False)
    owner_id: int
    # No constraints: the job's row has them, and each check would lock the user's row once an event.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    team = models.ForeignKey(Group, models.SET_NULL, null=True, related_name="+", db_index=False, db_constraint=False)
    kind = models.CharField(max_length=100)
    sequence = models.PositiveIntegerField()
    type = models.CharField(max_length=40)
    data = models.JSONField(default=dict)
    at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["job", "sequence"], name="event_job_sequence"),
            models.UniqueConstraint(
                fields=["batch", "sequence"], name="event_batch_sequence", condition=Q(batch__isnull=False)
            ),
            models.CheckConstraint(name="event_one_subject", condition=Q(job__isnull=True) | Q(batch__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.sequence}"


class Upload(models.Model):
    """A file that came with a submission; removed with the last job that names it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    name = models.CharField(max_length=255)
    size = models.BigIntegerField(help_text="bytes")
    sha256 = models.CharField(max_length=64)
    file = models.FileField(max_length=200)
    created_at = models.DateTimeField()
    jobs = models.ManyToManyField(Job, through="JobUpload", related_name="uploads")

    def __str__(self) -> str:
        return self.name


class JobUpload(models.Model):
    """Which upload a job's parameter names."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="+", db_index=False)
    upload = models.ForeignKey(Upload, models.CASCADE, related_name="+")
    param = models.CharField(max_length=100)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["job", "param"], name="job_upload_param")]

    def __str__(self) -> str:
        return f"{self.param} of {self.job_id}"


class Artifact(models.Model):
    """A file that an attempt attached; the Job lists those of the attempt that finished it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    job = models.ForeignKey(Job, models.CASCADE, related_name="artifacts", db_index=False)
    fence = models.PositiveIntegerField(help_text="of the claim that attached it")
    attempt = models.PositiveIntegerField()
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=255)
    size = models.BigIntegerField(help_text="bytes")
    sha256 = models.CharField(max_length=64)
    file = models.FileField(max_length=200)
    is_main = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["job", "fence", "name"], name="artifact_name")]

    def __str__(self) -> str:
        return self.name


class IdempotencyKey(models.Model):
    """What a submission with this key made, so that its repetition makes nothing more."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the canonical submission")
    # One of the two: what the submission made, or the job that it was given in place of a new one.
    job = models.ForeignKey(Job, models.CASCADE, null=True, related_name="+")
    batch = models.ForeignKey(Batch, models.CASCADE, null=True, related_name="+")
    standing = models.JSONField(
        default=dict, help_text="jobs that held their unique keys already and were given in place of new ones, by place"
    )
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["owner", "key"], name="idempotency_owner_key")]

    def __str__(self) -> str:
        return self.key


WORKER_LIVES = timedelta(seconds=30)


class Worker(models.Model):
    """A worker process, or a sweeper, which has no slots; from its start to its end. Its id is never used again."""

    id = models.UUIDField(primary_key=True, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list)
    slots = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    @classmethod
    def alive(cls, now: datetime) -> models.QuerySet[Worker]:
        """Find those that were seen lately; each says every 10 s that it lives."""
        return cls.objects.filter(seen_at__gt=now - WORKER_LIVES)


class PausedQueue(models.Model):
    """A queue of which no job is claimed until it is resumed."""

    name = models.CharField(max_length=100, primary_key=True)
    paused_at = models.DateTimeField()
    paused_by = models.CharField(max_length=150, default="", blank=True)

    def __str__(self) -> str:
        return self.name


class LogEpoch(models.Model):
    """The one row that names this log; a cursor of another log is told so and not glossed over."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    value = models.UUIDField(default=uuid.uuid4)

    def __str__(self) -> str:
        return str(self.value)


class Scope(models.TextChoices):
    """What a token may be used for."""

    READ = "read"
    SUBMIT = "submit"
    MANAGE = "manage"
    WATCH = "watch"


GRANTABLE = (Scope.READ, Scope.SUBMIT, Scope.MANAGE)
"""What an ordinary token may be limited to; `watch` is for watch tokens, which have nothing else."""


class Token(AbstractAuthToken):
    """A bearer token: hashed at rest, named, limited to scopes, with the time of its last use.

    All that says whether it is good and for what stands in its row and its user's; only one made within a session asks
    for that session too. Rows that go take with them the watch tokens that were made with them.
    """

    id = models.UUIDField(default=new_id, unique=True, editable=False, help_text="its name in the API")
    name = models.CharField(max_length=100, default="", blank=True)
    scopes = models.JSONField(default=list, blank=True, help_text="empty: all but watch")
    last_used_at = models.DateTimeField(null=True, editable=False)

    # Of watch tokens: what they see, and what they were made with.
    # No constraint, as retention removes jobs by bare statements: a token of a job that is gone opens nothing.
    job = models.ForeignKey(
        Job, models.DO_NOTHING, null=True, editable=False, related_name="+", db_index=False, db_constraint=False
    )
    parent = models.ForeignKey("self", models.CASCADE, null=True, editable=False, related_name="+")
    session = models.ForeignKey(Session, models.CASCADE, null=True, editable=False, related_name="+")

    class Meta:
        indexes: ClassVar = [models.Index("expiry", name="token_expiry", condition=Q(expiry__isnull=False))]

    def __str__(self) -> str:
        return self.name or self.token_key

    @property
    def is_watch_token(self) -> bool:
        return Scope.WATCH in self.scopes

    @property
    def may_watch(self) -> bool:
        return self.is_watch_token or self.may(Scope.READ)

    def may(self, scope: Scope) -> bool:
        """Tell whether it may be used for this; one without scopes may be for all."""
        return not self.scopes or scope in self.scopes
