"""The engine in real worker processes: killed children, threads, queues of one's own, and queues that are paused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import ROOT, Client, Stack, running_stack
from tests.waiting import wait_until

BACK_SECONDS = 10.0
"""Until a killed child's jobs run again: about 2 s, and what a busy machine adds. A lease would be 30 s."""
PAUSED_WITHIN_SECONDS = 1.0
DONE_SECONDS = 30.0
STOP_SECONDS = 30.0
MOST_RUN_AGAIN = 32


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str]) -> Iterator[Stack]:
    """Give a Kabar whose workers know the kinds of `workload`."""
    data = tmp_path_factory.mktemp("engine")
    with running_stack(data, new_database_url(), KABAR_APPS="tests.e2e.workload") as running:
        running.token()  # makes the user whose jobs these are
        yield running


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client()


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One call of a handler."""

    job_id: str
    pid: int
    at: float


def runs(stack: Stack) -> list[Ran]:
    file = stack.data / "runs.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [Ran(job_id=job_id, pid=int(pid), at=float(at)) for job_id, pid, at in (line.split() for line in lines)]


def in_stack(stack: Stack, *lines: str) -> str:
    """Run Python where the stack's database is, and give what it printed."""
    return stack.manage("shell", "--verbosity", "0", "-c", "\n".join(lines))


def submit_at_once(stack: Stack, kind: str, *params: Mapping[str, Any]) -> list[str]:
    """Have jobs accepted in one transaction, as a batch is, and give their ids."""
    printed = in_stack(
        stack,
        "from django.contrib.auth import get_user_model as users",
        "from jobs import doorbell, lifecycle",
        "from jobs.kinds import get_kind",
        "owner = users().objects.get(username='admin')",
        f"params = {[dict(each) for each in params]!r}",
        f"kind = get_kind({kind!r})",
        "jobs = lifecycle.accept([lifecycle.Submission(kind=kind, owner_id=owner.pk, params=each) for each in params])",
        "doorbell.flush(5.0)",
        "print(*(job.pk for job in jobs))",
    )
    return printed.split()


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a job's row says, and the words of its log."""

    status: str
    attempt: int
    crashes: int
    started_at: float | None
    finished_at: float | None
    sequences: list[int]
    types: list[str]


def rows(stack: Stack, ids: list[str], *, once_done: bool = True) -> dict[str, Row]:
    """Read jobs by id, once all are done if so asked."""
    printed = in_stack(
        stack,
        "import json, time",
        "from jobs.models import FINAL, Event, Job",
        f"jobs, end = Job.objects.filter(pk__in={ids!r}), time.monotonic() + {DONE_SECONDS if once_done else 0}",
        "while jobs.exclude(status__in=FINAL).exists() and time.monotonic() < end: time.sleep(0.05)",
        "stamp = lambda moment: moment and moment.timestamp()",
        "found = {str(job.pk): dict(status=job.status, attempt=job.attempt, crashes=job.crashes,"
        " started_at=stamp(job.started_at), finished_at=stamp(job.finished_at), sequences=[], types=[])"
        " for job in jobs.all()}",
        f"for event in Event.objects.filter(job__in={ids!r}).order_by('id'):",
        "    found[str(event.job_id)]['sequences'].append(event.sequence)",
        "    found[str(event.job_id)]['types'].append(event.type)",
        "print(json.dumps(found))",
    )
    found = {job_id: Row(**row) for job_id, row in json.loads(printed).items()}
    return {job_id: found[job_id] for job_id in ids}


def check_logs(jobs: Mapping[str, Row]) -> None:
    """See that each log is whole and tells of one end."""
    for job in jobs.values():
        assert job.sequences == list(range(1, len(job.sequences) + 1))
        assert job.types[0] == "job.accepted"
        assert job.types[-2:] == ["job.started", "job.completed"]
        assert job.types.count("job.completed") == 1
        assert job.types.count("job.started") - job.types.count("job.retrying") == 1


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def own_worker(stack: Stack, queue: str, *options: str) -> Iterator[int]:
    """Run a worker beside the stack's, of one queue only, and give its process's number."""
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "config", "worker", "-Q", queue]
    command += ["--without-gossip", "--without-mingle", "-n", f"{queue}@%h", *options]
    with (stack.data / f"{queue}.txt").open("w") as log:
        process = subprocess.Popen(command, env=dict(stack.env), cwd=ROOT, stdout=log, stderr=log)
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


# --- A killed child --------------------------------------------------------------------------------------------------


def test_a_child_that_is_killed_in_the_middle_of_a_hand_holds_nobody_up(stack: Stack) -> None:
    count, place = 400, 250
    ids = submit_at_once(stack, "work.short", *({"kills": each == place} for each in range(count)))
    jobs = rows(stack, ids)
    poison = ids[place]
    assert {job.status for job in jobs.values()} == {"COMPLETED"}
    assert {job_id: job.crashes for job_id, job in jobs.items() if job.crashes} == {poison: 1}
    assert {job_id: job.attempt for job_id, job in jobs.items() if job.attempt > 1} == {poison: 2}
    check_logs(jobs)

    own = [each for each in runs(stack) if each.job_id in jobs]
    killed_at = next(each.at for each in own if each.job_id == poison)
    finished = {job_id: job.finished_at or 0.0 for job_id, job in jobs.items()}
    late = max(at for job_id, at in finished.items() if job_id != poison) - killed_at
    ran = Counter(each.job_id for each in own)
    again = sum(number - 1 for job_id, number in ran.items() if job_id != poison)
    print(f"the others were done {late:.2f} s after the kill; {again} handlers ran again")
    assert late < BACK_SECONDS
    assert finished[poison] - killed_at < BACK_SECONDS + 2
    assert again <= MOST_RUN_AGAIN
    assert ran[poison] == 2


def test_two_children_that_are_killed_at_once_lose_no_job(stack: Stack) -> None:
    ids = submit_at_once(stack, "work.short", *({"kills": each in (30, 31)} for each in range(60)))
    jobs = rows(stack, ids)
    assert {job.status for job in jobs.values()} == {"COMPLETED"}
    assert [jobs[job_id].crashes for job_id in ids] == [int(each in (30, 31)) for each in range(60)]
    check_logs(jobs)


def test_a_child_that_is_killed_from_outside_while_it_works_loses_no_job(stack: Stack) -> None:
    """Wherever in its hand the signal hits."""
    ids: list[str] = []

    def ran(own: set[str]) -> list[Ran]:
        return [each for each in runs(stack) if each.job_id in own]

    def newest_pid(own: set[str]) -> int:
        begun = ran(own)
        return begun[-1].pid if len(begun) > 60 else 0

    for _ in range(3):
        some = submit_at_once(stack, "work.short", *[{"seconds": 0.005}] * 300)
        ids += some
        pid = wait_until(partial(newest_pid, set(some)), 20)  # who ran one of these wasn't killed before
        os.kill(pid, signal.SIGKILL)
    jobs = rows(stack, ids)
    assert {job.status for job in jobs.values()} == {"COMPLETED"}
    crashed = {job_id: job.crashes for job_id, job in jobs.items() if job.crashes}
    assert set(crashed.values()) <= {1}
    assert len(crashed) <= 3
    check_logs(jobs)
    begun = sorted(each.at for each in ran(set(ids)) if each.job_id not in crashed)
    assert max(later - earlier for earlier, later in pairwise(begun)) < BACK_SECONDS
    assert sum(job.attempt - 1 for job in jobs.values()) <= 3
    assert len(ran(set(ids))) - len(ids) <= 3 * (MOST_RUN_AGAIN + 1)


# --- Threads, and queues of one's own --------------------------------------------------------------------------------


def test_a_worker_with_threads_runs_plain_and_async_jobs_and_their_progress_arrives(
    stack: Stack, client: Client
) -> None:
    with own_worker(stack, "threads", "--pool", "threads", "--concurrency", "4") as pid:
        ids = [client.submit(kind, {"seconds": 2}) for kind in ("work.in_threads", "work.async_in_threads") * 2]
        seen: dict[str, set[float]] = {job_id: set() for job_id in ids}

        def are_done() -> bool:
            jobs = [client.job(job_id) for job_id in ids]
            for job in jobs:
                if job["progress"]:
                    seen[job["jobId"]].add(job["progress"]["percent"])
            return all(job["done"] for job in jobs)

        wait_until(are_done, 30, "four jobs in threads")
        jobs = [client.job(job_id) for job_id in ids]
    assert {job["status"] for job in jobs} == {"COMPLETED"}
    assert [job["result"] for job in jobs] == [pid, {"pid": pid, "status": "RUNNING"}] * 2
    for percents in seen.values():
        assert 100.0 in percents
        assert len(percents - {100.0}) >= 1
    begun = [datetime.fromisoformat(job["startedAt"]) for job in jobs]
    ended = [datetime.fromisoformat(job["finishedAt"]) for job in jobs]
    assert max(begun) < min(ended)  # all four at once


def test_a_worker_with_threads_that_has_to_stop_puts_back_what_it_runs(stack: Stack, client: Client) -> None:
    with own_worker(stack, "threads", "--pool", "threads", "--concurrency", "2"):
        job_id = client.submit("work.in_threads", {"seconds": 2})
        wait_until(lambda: client.job(job_id)["status"] == "RUNNING", 20)
    job = client.job(job_id)
    # It had the time to end, or else is free for another worker.
    assert job["status"] in ("COMPLETED", "PENDING")
    assert job["attempt"] == (1 if job["done"] else 0)
    client.delete(f"/api/jobs/{job_id}")


def test_a_kind_that_names_a_queue_waits_for_the_worker_that_hears_it(stack: Stack, client: Client) -> None:
    job_id = client.submit("work.elsewhere")
    other = client.submit("work.short")
    assert client.finished(other)["status"] == "COMPLETED"
    assert client.job(job_id)["status"] == "PENDING"
    with own_worker(stack, "elsewhere", "--pool", "prefork", "--concurrency", "1") as pid:
        job = client.finished(job_id)
        assert job["result"] in children_of(pid)
        # And nothing else is run by it, nor by another what is its own.
        own = [client.submit("work.elsewhere") for _ in range(5)]
        others = [client.submit("work.short") for _ in range(5)]
        assert {client.finished(each)["result"] for each in own} == {job["result"]}
        assert job["result"] not in {client.finished(each)["result"] for each in others}


# --- Paused ----------------------------------------------------------------------------------------------------------


def test_a_paused_queue_is_not_worked_within_a_second_and_is_after_it_is_resumed(stack: Stack, client: Client) -> None:
    ids = submit_at_once(stack, "work.short", *[{"seconds": 0.1}] * 80)
    wait_until(lambda: client.job(ids[0])["done"], 10)
    stack.manage("pause_queue", "default")
    try:
        printed = in_stack(
            stack, "from jobs.models import PausedQueue", "print(PausedQueue.objects.get().paused_at.timestamp())"
        )
        paused_at = float(printed)
        ids.append(client.submit("work.short"))
        wait_until(lambda: time.time() > paused_at + 2.5, 10)  # the sweeper has had the time to ring
        jobs = rows(stack, ids, once_done=False)
        assert {job.status for job in jobs.values()} == {"COMPLETED", "PENDING"}
        assert jobs[ids[-1]].status == "PENDING"
        assert max(job.started_at or 0.0 for job in jobs.values()) < paused_at + PAUSED_WITHIN_SECONDS
    finally:
        stack.manage("resume_queue", "default")
    assert {job.status for job in rows(stack, ids).values()} == {"COMPLETED"}
