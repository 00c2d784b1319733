"""How many webhooks a second are sent, beside a bare Celery task with a `requests` session.

    python -m benchmarks.webhooks [--database sqlite|postgresql] [--jobs 240] [--endpoints 16] [--rounds 5]

Both send 1 KiB to a sink in a process of its own. Kabar's deliveries are rows, signed and recorded, sent by the webhook
worker as it ships (16 threads, one process); the task is bare, on two prefork children. A queue is filled while its
worker is halted; the time runs from the moment that it goes on until all is recorded, or received.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import requests

from benchmarks import rounds
from benchmarks.rounds import Contender, Failed, wait_until
from benchmarks.stack import ROOT, Servers, servers

BODY_BYTES = 1024
TIMEOUT_SECONDS = 120.0
WARM_UP_JOBS = 32
BARE = "bare Celery task, prefork 2"


@contextmanager
def sink(count: int) -> Iterator[list[int]]:
    """Start a sink that listens on some ports, and end it."""
    command = [sys.executable, "-m", "benchmarks.sink", str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ports: list[int] = json.loads(process.stdout.readline())
            yield ports
        finally:
            process.stdin.close()  # its input's end is its own


@dataclass(frozen=True, kw_only=True)
class Sendings:
    """The two sides; each method returns deliveries a second."""

    servers: Servers
    ports: Sequence[int]
    jobs: int
    owner_id: int

    def kabar(self, endpoints: int) -> float:
        """Send Kabar's deliveries, and check that each was made, recorded and received once and is signed."""
        from notifications.models import Delivery, DeliveryStatus

        name = f"/{uuid4()}"
        with self.servers.paused("webhooks"):
            ids = self._accept(name, endpoints)
        pending = Delivery.objects.filter(status=DeliveryStatus.PENDING)
        pace = self._timed(lambda: not pending.exists())
        self._check_rows(ids)
        seen = self._seen(name)
        if not seen["count"] == seen["distinct"] == self.jobs:
            raise Failed(f"{seen['count']} came, {seen['distinct']} different ones, of {self.jobs}")
        self._check_signature(seen)
        return pace

    def bare(self, endpoints: int) -> float:
        """Send by the bare task, and check that each came once."""
        from benchmarks.peers import celery_alone

        name, body = f"/{uuid4()}", "x" * BODY_BYTES
        with self.servers.paused("celery_alone"):
            for number in range(self.jobs):
                celery_alone.post.delay(self._url(name, number % endpoints), body)
        pace = self._timed(lambda: self._seen(name)["count"] >= self.jobs)
        if self._seen(name)["count"] != self.jobs:
            raise Failed("the bare task sent more than once")
        return pace

    def _accept(self, name: str, endpoints: int) -> list[UUID]:
        """Promise jobs whose acceptance is told by callback; they run tomorrow, so that nothing else is to be done."""
        from django.utils import timezone

        from jobs import lifecycle
        from jobs.kinds import get_kind
        from jobs.lifecycle import Submission
        from jobs.models import EventType

        kind, tomorrow = get_kind("bench.noop"), timezone.now() + timedelta(days=1)
        submissions = [
            Submission(
                kind=kind,
                owner_id=self.owner_id,
                run_at=tomorrow,
                callback_url=self._url(name, number % endpoints),
                callback_events=[EventType.ACCEPTED],
                metadata={"padding": "x" * self._padding()},
            )
            for number in range(self.jobs)
        ]
        return [job.id for job in lifecycle.accept(submissions)]

    def _padding(self) -> int:
        """Say how much brings the envelope to the size that is sent."""
        from django.utils import timezone

        from jobs.kinds import get_kind
        from jobs.models import Event, EventType, Job, new_id
        from jobs.representation import changing_state
        from notifications.webhooks.envelope import body_of

        now, kind = timezone.now(), get_kind("bench.noop")
        job = Job(id=new_id(), kind=kind.name, max_attempts=3, created_at=now, run_at=now, metadata={"padding": ""})
        event = Event(job=job, kind=kind.name, sequence=1, type=EventType.ACCEPTED, data=changing_state(job), at=now)
        return max(0, BODY_BYTES - len(body_of(event)))

    def _check_rows(self, ids: list[UUID]) -> None:
        from notifications.models import Delivery, DeliveryAttempt, DeliveryStatus

        for place in range(0, len(ids), 500):  # SQLite limits the parameters of a statement
            some = ids[place : place + 500]
            made = Delivery.objects.filter(job__in=some, status=DeliveryStatus.DELIVERED, attempts=1).count()
            tries = DeliveryAttempt.objects.filter(delivery__job__in=some).count()
            if not made == tries == len(some):
                raise Failed(f"{made} deliveries made, {tries} attempts recorded, of {len(some)}")

    def _check_signature(self, seen: dict[str, Any]) -> None:
        from standardwebhooks import Webhook

        from notifications.webhooks.secrets import callback_secret

        Webhook(callback_secret(self.owner_id).secret).verify(seen["body"], seen["headers"])
        if abs(len(seen["body"]) - BODY_BYTES) > 16:
            raise Failed(f"a body of {len(seen['body'])} bytes")

    def _url(self, name: str, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[number]}{name}"

    def _seen(self, name: str) -> dict[str, Any]:
        answer = requests.get(self._url("/seen" + name, 0), timeout=5)
        seen: dict[str, Any] = answer.json()
        return seen

    def _timed(self, is_done: Callable[[], bool]) -> float:
        begun = time.monotonic()
        wait_until(is_done, TIMEOUT_SECONDS)
        return self.jobs / (time.monotonic() - begun)


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=240)
    parser.add_argument("--endpoints", type=int, default=16)
    options = parser.parse_args()
    with (
        sink(options.endpoints) as ports,
        servers(options.database, kabar=["webhooks", "sweeper"], peers=["celery_alone"]) as running,
    ):
        from django.contrib.auth import get_user_model

        owner = get_user_model().objects.create_user("benchmark")
        warm = Sendings(servers=running, ports=ports, jobs=WARM_UP_JOBS, owner_id=owner.pk)
        warm.kabar(options.endpoints)
        warm.bare(options.endpoints)
        rounds.print_machine(
            {"database": options.database, "deliveries a round": options.jobs, "body bytes": BODY_BYTES}
        )
        sendings = Sendings(servers=running, ports=ports, jobs=options.jobs, owner_id=owner.pk)
        many, one = f"Kabar, {options.endpoints} endpoints", "Kabar, one endpoint"
        comparison = rounds.compare(
            "Webhooks",
            "deliveries/s",
            [
                Contender(name=many, measure=lambda: sendings.kabar(options.endpoints)),
                Contender(name=one, measure=lambda: sendings.kabar(1)),
                Contender(name=BARE, measure=lambda: sendings.bare(options.endpoints)),
            ],
            options.rounds,
        )
        comparison.print(many, beside=[BARE])
        comparison.print_ratio(one, BARE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
