"""A worker thread's hand of jobs: what is reserved, what runs, and whose ends are still to be written.

A thread plays its hand, and the process's guard looks into it where a handler runs on; the hand's lock keeps the two
apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, DatabaseError, DataError, InterfaceError, connection, connections

from jobs import lifecycle, log_context, metrics, spool, wakeup
from jobs.attempt import attempt
from jobs.context import Context, Notes
from jobs.lifecycle import LEASE_SECONDS, Beat, Outcome, Traded
from jobs.models import Job, Status
from jobs.pace import HAND_SECONDS, Pace
from jobs.process import Process, is_stopping

logger = logging.getLogger(__name__)

LARGEST_HAND = 32
MOST_UNWRITTEN = 32
"""Ends are written at the latest when so many wait: as many handlers run again if the process is killed."""
UNWRITTEN_SECONDS = 0.005
"""And at the latest so long after the first of them, or once the handler that runs then has returned; where the scribe
follows, which writes when the last of a hand begins, after the time of a hand."""
PATIENCE_SECONDS = 0.05
"""A run that takes so much longer than its kind usually does holds up what was reserved behind it."""
BEAT_SECONDS = 5.0
RETRY_PAUSE_SECONDS = 0.5
BUSY_SECONDS = 5.0
"""How long a write beside a handler may wait for SQLite's only writer, which may be the handler's own transaction."""

T = TypeVar("T")


@dataclass(kw_only=True)
class Run:
    """A handler at work; times are on the monotonic clock."""

    job: Job
    context: Context
    begun: dict[str, Any] | None
    """What the event of its begin will say, while that is still to be written."""
    began_at: float
    version: int
    next_beat: float
    next_write: float
    held_at: float
    expected: float | None = None
    """How many seconds its kind took lately."""
    patient_until: float = 0.0
    """Until then whatever waits behind it is left waiting: it was reserved because this one ends soon."""
    force_at: float | None = None
    release_at: float | None = None

    @cached_property
    def deadline(self) -> float:
        """When its time is over."""
        seconds, job = float(self.job.timeout_seconds), self.job
        if job.finish_by and job.started_at:
            seconds = min(seconds, (job.finish_by - job.started_at).total_seconds())
        return self.began_at + seconds

    def beat(self, notes: Notes) -> Beat:
        """Make the sign of life that carries these notes."""
        return Beat(
            job=self.job, progress=notes.progress, version=self.version, lines=notes.lines, moments=notes.moments
        )


class Hand:
    """The jobs of one thread.

    Args:
        queue: where they come from.
        process: whose they are.
        pace: how long the kinds took lately.
        news: set when a handler has something to say, to wake the guard.
        on_begin: called with each run that begins; tells whether somebody writes and reserves while it lasts.
    """

    def __init__(
        self,
        queue: str,
        process: Process,
        pace: Pace,
        news: threading.Event,
        on_begin: Callable[[Hand, Run], bool] | None = None,
    ) -> None:
        self.lock = threading.Lock()
        self.reserved: deque[Job] = deque()
        self.run: Run | None = None
        self.played = 0
        self._queue = queue
        self._process = process
        self._pace = pace
        self._news = news
        self._on_begin = on_begin
        self._is_followed = False
        self._may_claim = False
        self._ended: list[Outcome] = []
        self._kept: list[Outcome] = []
        """Those of them that are on the disk too, because the database was away."""
        self._lost_company: Run | None = None
        """What ran when the others were given back, until that is noted in its row."""
        self._size = 1
        self._is_line_long = False
        """Whether the last claim gave as many as were asked for: there may be more."""
        self._is_inside = connection.in_atomic_block  # of a transaction of whoever plays

    # --- By the thread

    def next(self, *, may_claim: bool) -> Job | None:
        """Give the job to run next; None where none is due, or none may be claimed."""
        with self.lock:
            self._may_claim = may_claim
            if self.reserved and not may_claim:
                self._persist(self.give_back)
            if not self.reserved:
                self._trade(may_claim=may_claim)
            elif self._is_time_to_write():
                self._persist(self.write_ends)
            return self.reserved.popleft() if self.reserved else None

    def play(self, job: Job) -> None:
        """Run one job to the end of its attempt."""
        run = self.take_up(job)
        with log_context.of(job):
            outcome = attempt(job, run.context)
        if not self._is_inside:
            leave_no_transaction()
        with self.lock:
            self._process.note_running(None)
            if self.run is not run:  # the guard has ended it
                return
            self.run, seconds = None, time.monotonic() - run.began_at
            self._pace.note(job.kind, seconds)
            if run.context.latest_progress is not None:
                wakeup.forget_progress(str(job.id))
            if outcome is None:
                metrics.count_lost_lease(job.kind)
                logger.warning("%s %s: the lease was lost, its result is dropped", job.kind, job.id)
            else:
                self._note_end(run, outcome)
                logger.info("%s %s: attempt %d ended after %.3f s", job.kind, job.id, job.attempt, seconds)

    def take_up(self, job: Job) -> Run:
        """Have a job be the one that runs."""
        now = time.monotonic()
        run = Run(
            job=job,
            context=Context(job, self._news),
            begun=lifecycle.foresee_begin(job) if job.status == Status.PENDING else None,
            began_at=now,
            version=job.version,
            next_beat=now + BEAT_SECONDS,
            next_write=now,
            held_at=now,
            expected=self._pace.seconds(job.kind),
        )
        with self.lock:
            self.run = run
        self._process.note_running(job.id)
        self.played += 1
        self._is_followed = bool(self._on_begin and not self._is_inside and self._on_begin(self, run))
        return run

    def _note_end(self, run: Run, outcome: Outcome) -> None:
        notes = run.context.take_notes()
        if notes.lines:
            self._persist(lambda: self._write_lines(run, notes))
        outcome.begun, outcome.began_at = run.begun, run.began_at
        outcome.progress, outcome.version = run.context.latest_progress, run.version
        self._ended.append(outcome)

    def _write_lines(self, run: Run, notes: Notes) -> None:
        if self.write_begin(run):
            lifecycle.beat([run.beat(notes)])

    def _is_time_to_write(self) -> bool:
        if len(self._ended) >= MOST_UNWRITTEN:
            return True
        patience = HAND_SECONDS if self._is_followed else UNWRITTEN_SECONDS
        return bool(self._ended) and time.monotonic() - self._ended[0].ended_at > patience

    def _trade(self, *, may_claim: bool, is_second_try: bool = False) -> None:
        """Write what has ended and take the next hand, doubled while there is more than it holds."""
        quick = self._pace.quick_kinds(self._size)
        want = lifecycle.wanted(self._queue, self._process.id, self._size, quick) if may_claim else None
        if want is None and not self._ended:
            return
        outcomes, self._ended = self._ended, []
        try:
            traded = lifecycle.trade(outcomes, want)
        except (DatabaseError, InterfaceError):
            self._ended = outcomes
            if is_second_try:
                raise
            self._recover()
            return self._trade(may_claim=may_claim, is_second_try=True)
        self._take(outcomes, traded)
        return None

    def _take(self, outcomes: list[Outcome], traded: Traded) -> None:
        self._look_for_fenced(outcomes, traded)
        self.reserved.extend(traded.claimed)
        self._is_line_long = len(traded.claimed) == self._size
        most = self._pace.most({job.kind for job in traded.claimed})
        self._size = max(1, min(self._size * 2 if self._is_line_long else self._size, most, LARGEST_HAND))
        if len(self.reserved) > 1 or (self.reserved and self.run):
            self._news.set()  # the guard must see whether somebody waits for one that runs on

    def _recover(self) -> None:
        """Come back from a database error: what was to be written is written, and nothing is held unknowingly.

        A connection that breaks at COMMIT may hide that the claim took.
        """
        connection.close()
        self._persist(self.write_ends)
        if self._process.slots == 1:  # with several threads, what the others hold can't be told from what is lost
            self._persist(lambda: lifecycle.disown(self._process.id))

    def _persist(self, write: Callable[[], T]) -> T:
        give_up_at = time.monotonic() + LEASE_SECONDS
        while True:
            try:
                return write()
            except (DatabaseError, InterfaceError):
                logger.warning("%s: the database is away", self._queue, exc_info=True)
                connection.close()
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS)

    # --- By the scribe, while a handler runs

    def write_down(self, run: Run) -> None:
        """Write what ended before this run, and its begin."""
        with self.lock:
            if self.run is run:
                self.write_ends()
                self.write_begin(run)

    def reserve_ahead(self, run: Run) -> None:
        """Write what has ended and reserve what comes after this run, if nothing is yet and more is likely."""
        with self.lock:
            may_claim = self._may_claim and not is_stopping()
            if self.run is not run or self.reserved or not (may_claim and self._is_line_long):
                return
            kinds = self._pace.quick_kinds(self._size) if self._size > 1 else self._pace.brisk_kinds()
            outcomes = self._ended.copy()
            want = lifecycle.wanted(self._queue, self._process.id, self._size, kinds, begins=False)
            traded = lifecycle.trade(outcomes, want)
            self._ended = []
            run.patient_until = max(run.began_at + (run.expected or 0.0), time.monotonic()) + PATIENCE_SECONDS
            self._take(outcomes, traded)

    # --- By whoever holds the lock: the thread, the scribe or the guard

    def write_ends(self) -> None:
        """Write down what has ended; an end that the database won't take fails its job, and no other."""
        outcomes = list(self._ended)
        if not outcomes:
            return
        try:
            self._look_for_fenced(outcomes, lifecycle.trade(outcomes, None))
        except DataError:
            for each in outcomes:
                self._write_doubtful(each)
        except (DatabaseError, InterfaceError):
            self._keep_on_disk(outcomes)
            raise
        self._ended = []
        spool.forget(self._kept)
        self._kept = []

    def _keep_on_disk(self, outcomes: list[Outcome]) -> None:
        """Keep ends that the database doesn't take now, once each."""
        known = {each.job.id for each in self._kept}
        kept = [each for each in outcomes if each.job.id not in known]
        spool.keep(kept)
        self._kept += kept

    def _write_doubtful(self, outcome: Outcome) -> None:
        try:
            lifecycle.trade([outcome], None)
        except DataError:
            logger.warning("%s %s: its result can't be stored", outcome.job.kind, outcome.job.id, exc_info=True)
            error = {"code": "result_invalid", "message": "The job returned something that can't be stored."}
            lifecycle.trade([replace(outcome, result=None, progress=None, error=error, retry=False)], None)

    def write_begin(self, run: Run) -> bool:
        """Write down that a reserved job has begun; False if it is no longer ours."""
        if run.begun is not None:
            if not lifecycle.begin(run.job, run.began_at):
                return False
            run.begun = None
        return True

    def give_back(self) -> None:
        """Put back what hasn't begun."""
        if self.reserved:
            lifecycle.give_back(list(self.reserved))
            self.reserved.clear()
            self._lost_company = self.run
        if self._lost_company:
            if self._lost_company is self.run and self.run.begun is None:
                lifecycle.stand_alone(self.run.job)
            self._lost_company = None

    @property
    def has_more(self) -> bool:
        """Whether others wait for the one that runs: to begin, or for their ends to be written.

        The guard asks without the lock, so the run is looked up once: it may end between two looks.
        """
        run = self.run
        return bool(self.reserved or self._ended or self._lost_company or (run and run.begun is not None))

    def _look_for_fenced(self, outcomes: list[Outcome], traded: Traded) -> None:
        for each in outcomes:
            if each.job.id not in traded.ended and not lifecycle.has_ended(each.job):
                metrics.count_lost_lease(each.job.kind)
                logger.warning("%s %s: was fenced off, its end is dropped", each.job.kind, each.job.id)


def leave_no_transaction() -> None:
    """Close a connection that a handler left inside a transaction, or with commits off: nothing of it may stay."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.in_atomic_block or not database.get_autocommit():
        database.close()
        del connections[DEFAULT_DB_ALIAS]  # Django opens none again that was closed inside a transaction


def wait_briefly() -> None:
    """Have this thread's writes wait no longer than `BUSY_SECONDS`: it is one that works beside handlers."""
    if connection.vendor == "sqlite":
        connection.busy_seconds = BUSY_SECONDS  # type: ignore[attr-defined]  # config.sqlite
