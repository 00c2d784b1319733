"""How fast jobs are drained, beside Celery alone and Celery with django-celery-results.

    python -m benchmarks.drain [--database sqlite|postgresql] [--rounds 5]

Each side has a worker with two prefork children. A line is filled while its worker is halted; the time runs from the
moment that it goes on until nothing is left. Kabar writes its whole log, each transition durable, and each round is
checked. Sides get as many jobs as keep them busy for some seconds, and are compared by their jobs a second.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import redis

from benchmarks import backlog, rounds
from benchmarks.backlog import halted, seconds_until
from benchmarks.idle import Idle
from benchmarks.rounds import Contender, Failed
from benchmarks.stack import Servers, servers

WARM_UP_JOBS = 20
US, ALONE, RESULTS = "Kabar", "Celery alone, results ignored", "Celery with django-celery-results"


@dataclass(frozen=True, kw_only=True)
class Length:
    """A handler that takes so long, and how many jobs of it each side gets."""

    milliseconds: int
    kabar_jobs: int
    alone_jobs: int

    @property
    def kind(self) -> str:
        return f"bench.sleep_{self.milliseconds}ms"


LENGTHS = (
    Length(milliseconds=1, kabar_jobs=3000, alone_jobs=1500),
    Length(milliseconds=10, kabar_jobs=400, alone_jobs=400),
    Length(milliseconds=100, kabar_jobs=40, alone_jobs=40),
)
"""About two seconds of work for two children each."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The three sides; each method returns jobs a second."""

    servers: Servers
    owner_id: int

    def kabar(self, kind: str, jobs: int) -> float:
        """Drain Kabar's line and check the log."""
        return backlog.drain(self.servers, kind, jobs, self.owner_id)

    def alone(self, jobs: int, seconds: float = 0.0) -> float:
        """Drain the queue of Celery alone.

        Args:
            jobs: how many.
            seconds: how long each takes.
        """
        from benchmarks.peers import celery_alone

        before = celery_alone.tasks_ended()
        with halted(self.servers, "celery_alone"):
            for _ in range(jobs):
                celery_alone.sleep.delay(seconds) if seconds else celery_alone.noop.delay()
        pace = jobs / seconds_until(lambda: celery_alone.tasks_ended() - before, jobs)
        queue = redis.Redis.from_url(celery_alone.BROKER)
        if celery_alone.tasks_ended() != before + jobs or queue.llen("celery") or queue.hlen("unacked"):
            raise Failed("Celery alone did not run each task once")
        return pace

    def results(self, jobs: int) -> float:
        """Drain the queue of Celery with django-celery-results and check the rows."""
        from django_celery_results.models import TaskResult

        from benchmarks.peers import celery_results

        rows = TaskResult.objects.order_by("-id")

        def newest() -> int:
            return rows.values_list("id", flat=True).first() or 0

        before, count = newest(), rows.count()

        def count_done() -> int:
            done = min(jobs, newest() - before)  # one row each, written at the end
            return done - 1 if done == jobs and rows.count() < count + jobs else done

        with halted(self.servers, "celery_results"):
            for _ in range(jobs):
                celery_results.noop.delay()
        pace = jobs / seconds_until(count_done, jobs)
        if rows.filter(status="SUCCESS").count() != count + jobs:
            raise Failed("not one row of success for each task")
        return pace


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--kabar-jobs", type=int, default=20_000, help="no-op jobs a round")
    parser.add_argument("--alone-jobs", type=int, default=1_600, help="no-op tasks a round of Celery alone")
    parser.add_argument("--results-jobs", type=int, default=800, help="no-op tasks a round of Celery with results")
    options = parser.parse_args()
    with servers(options.database, kabar=["worker", "sweeper"], peers=["celery_alone", "celery_results"]) as running:
        from django.contrib.auth import get_user_model

        owner = get_user_model().objects.create_user("benchmark")
        sides = Sides(servers=running, owner_id=owner.pk)
        warm_up(sides)
        rounds.print_machine(
            {
                "database": options.database,
                "no-op jobs a round": f"{options.kabar_jobs}, {options.alone_jobs}, {options.results_jobs}",
                "children a worker": 2,
            }
        )
        no_op = rounds.compare(
            "Drain of no-op jobs",
            "jobs/s",
            [
                Contender(name=US, measure=lambda: sides.kabar("bench.noop", options.kabar_jobs)),
                Contender(name=ALONE, measure=lambda: sides.alone(options.alone_jobs)),
                Contender(name=RESULTS, measure=lambda: sides.results(options.results_jobs)),
            ],
            options.rounds,
        )
        asleep = [rounds.compare(*comparison_of(each, sides), options.rounds) for each in LENGTHS]
        idle = Idle(owner_id=owner.pk)
        latency = rounds.compare(
            "Idle: submission to done",
            "ms",
            [Contender(name=US, measure=idle.kabar), Contender(name=ALONE, measure=idle.alone)],
            options.rounds,
        )
        no_op.print(US, beside=[ALONE, RESULTS])
        for each in asleep:
            each.print(US, beside=[ALONE])
        latency.print(US, beside=[ALONE])
        idle.print_passages()
    return 0


def comparison_of(length: Length, sides: Sides) -> tuple[str, str, list[Contender]]:
    """Say what is compared for handlers that take some time."""
    seconds = length.milliseconds / 1000
    return (
        f"Drain of jobs that sleep {length.milliseconds} ms",
        "jobs/s",
        [
            Contender(name=US, measure=partial(sides.kabar, length.kind, length.kabar_jobs)),
            Contender(name=ALONE, measure=partial(sides.alone, length.alone_jobs, seconds)),
        ],
    )


def warm_up(sides: Sides) -> None:
    """Have every process run once whatever it will run."""
    for kind in ("bench.noop", *(each.kind for each in LENGTHS)):
        sides.kabar(kind, WARM_UP_JOBS)
    sides.alone(WARM_UP_JOBS)
    sides.alone(WARM_UP_JOBS, 0.001)
    sides.results(WARM_UP_JOBS)


if __name__ == "__main__":
    sys.exit(main())
