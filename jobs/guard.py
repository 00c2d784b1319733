"""The guard: one thread a worker process that looks after all hands in it.

It renews leases, writes progress and log lines down, sees to it that a job ends whose time is over or whose cancelling
was asked for, and where a handler runs on, gives back what waits behind it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from jobs import doorbell, lifecycle, metrics, spool, wakeup
from jobs.attempt import timed_out
from jobs.context import Notes
from jobs.failures import JobCancelled, JobTimedOut, LeaseLost
from jobs.hand import BEAT_SECONDS, Hand, Run, wait_briefly
from jobs.lifecycle import LEASE_SECONDS, Held, Outcome
from jobs.process import SEEN_SECONDS, Process, is_stopping, this_process
from jobs.representation import as_json, progress_as_dict

logger = logging.getLogger(__name__)

RUNS_ON_SECONDS = 0.05
"""A handler that takes longer holds nobody up: what waits behind it is given back, and its own begin is told."""
WRITE_SECONDS = 1.0
PUSH_SECONDS = 0.1
LOOK_SECONDS = 1.0
"""How long at most until it is looked again, at the jobs and at whether the worker has to stop."""
FORCE_SECONDS = 10.0
"""From telling a handler to stop to ending it by force."""
RELEASE_SECONDS = 10.0
"""How long a running job may go on once its worker has to stop; then it is put back for another one."""

Attended = tuple[Hand, Run]


@cache
def guard() -> Guard:
    """Give this process its guard, started on first use."""
    watchman = Guard(this_process())
    watchman.start()
    return watchman


os.register_at_fork(after_in_child=guard.cache_clear)


class Guard(threading.Thread):
    """Looks after the hands of this process."""

    def __init__(self, process: Process) -> None:
        super().__init__(name="guard", daemon=True)
        self.news = threading.Event()
        self._process = process
        self._hands: list[Hand] = []
        self._lock = threading.Lock()
        self._next_seen = 0.0
        self._is_closed = False

    @contextmanager
    def watching(self, hand: Hand) -> Iterator[None]:
        """Look after a hand."""
        with self._lock:
            self._hands.append(hand)
        try:
            yield
        finally:
            with self._lock:
                self._hands.remove(hand)

    def close(self) -> None:
        """End the thread and its connection; jobs that are still in hand are left to their leases."""
        self._is_closed = True
        self.news.set()
        self.join()

    def run(self) -> None:
        wait_briefly()
        while not self._is_closed:
            try:
                self._round()
            except Exception:  # a fault of ours is written down, and costs no job its guard
                logger.exception("The guard stumbled")
                time.sleep(PUSH_SECONDS)
        connection.close()

    def _round(self) -> None:
        self.news.wait(timeout=self._pause())
        self.news.clear()
        try:
            self.look()
        finally:
            self._tell_seen()
        # Many have news at once, and are attended to together.
        time.sleep(RUNS_ON_SECONDS if self._has_more else PUSH_SECONDS)

    def _pause(self) -> float:
        """Say how long nothing needs to be done while nobody has news."""
        now = time.monotonic()
        runs = [run for hand in self._all() if (run := hand.run)]
        writes = [run.next_write for run in runs if run.context.has_notes]
        look_at = now + (RUNS_ON_SECONDS if self._has_more else LOOK_SECONDS)
        return max(0.0, min([look_at, self._next_seen, *writes]) - now)

    @property
    def _has_more(self) -> bool:
        return any(each.has_more for each in self._all())

    def _all(self) -> list[Hand]:
        with self._lock:
            return list(self._hands)

    # --- A look at all hands

    def look(self) -> None:
        """Do for each job in hand what is due."""
        hands = self._all()
        # A thread that holds its lock is between two handlers, and needs nobody.
        held = [each for each in hands if each.lock.acquire(blocking=False)]
        try:
            close_old_connections()
            self._attend([(hand, hand.run) for hand in held if hand.run])
        finally:
            for each in held:
                each.lock.release()

    def _attend(self, attended: list[Attended]) -> None:
        now = time.monotonic()
        for hand, run in attended:
            if hand.has_more and now - run.began_at > RUNS_ON_SECONDS and now > run.patient_until:
                self._clear_the_way(hand, run, now)
        self._push(run for _, run in attended)
        begun = [(hand, run) for hand, run in attended if run.begun is None]
        self._beat([run for _, run in begun if is_beat_due(run, now)], now)
        for hand, run in begun:
            self._end_in_time(hand, run, now)

    def _clear_the_way(self, hand: Hand, run: Run, now: float) -> None:
        """Give back what waits behind a handler that runs on, and write down what has ended before it."""
        try:
            hand.give_back()
            hand.write_ends()
            if not hand.write_begin(run):
                self._tell_to_stop(run, LeaseLost("The job is no longer this worker's."), now)
        except (DatabaseError, InterfaceError):
            logger.warning("%s %s: the database is away", run.job.kind, run.job.id, exc_info=True)
            connection.close()
        except Exception:
            logger.exception("%s %s: the guard stumbled", run.job.kind, run.job.id)

    def _push(self, runs: Iterable[Run]) -> None:
        messages = {}
        for run in runs:
            progress = run.context.progress_to_push()
            if progress is None:
                continue
            run.version += 1
            job = run.job
            messages[str(job.id)] = {
                "job": str(job.id),
                "owner": job.owner_id,
                "team": job.team_id,
                "sequence": job.sequence,
                "version": run.version,
                "envelope": as_json(progress_as_dict(job, progress, run.version)),
            }
        if messages:
            wakeup.tell_progress(messages)

    def _beat(self, runs: list[Run], now: float) -> None:
        """Renew leases, and write what handlers have said, for all of them at once."""
        if not runs:
            return
        notes = [run.context.take_notes() for run in runs]
        try:
            held = lifecycle.beat([run.beat(each) for run, each in zip(runs, notes, strict=True)])
        except Exception as fault:
            if not isinstance(fault, DatabaseError | InterfaceError):
                logger.exception("The guard stumbled")
            connection.close()
            for run, each in zip(runs, notes, strict=True):
                self._come_back_later(run, each, now)
        else:
            for run in runs:
                self._note_answer(run, held.get(run.job.id), now)

    def _come_back_later(self, run: Run, notes: Notes, now: float) -> None:
        logger.warning("%s %s: no beat, the database is away", run.job.kind, run.job.id)
        run.context.put_back(notes)
        run.next_beat = run.next_write = now + WRITE_SECONDS
        if now - run.held_at > LEASE_SECONDS:
            self._tell_to_stop(run, LeaseLost("The lease ran out."), now)

    def _note_answer(self, run: Run, held: Held | None, now: float) -> None:
        run.next_beat, run.next_write = now + BEAT_SECONDS, now + WRITE_SECONDS
        if held is None:
            self._tell_to_stop(run, LeaseLost("The job was given to another worker."), now)
            return
        run.held_at, run.version, run.job.sequence = now, held.version, held.sequence
        if held.is_cancelled:
            self._tell_to_stop(run, JobCancelled("The job is to be cancelled."), now)

    # --- The end of a job that doesn't end by itself

    def _tell_to_stop(self, run: Run, reason: JobTimedOut | JobCancelled | LeaseLost, now: float) -> None:
        run.context.stop(reason)
        run.force_at = run.force_at or now + FORCE_SECONDS

    def _end_in_time(self, hand: Hand, run: Run, now: float) -> None:
        if now >= run.deadline:
            self._tell_to_stop(run, JobTimedOut("The attempt's time is over."), now)
        try:
            if run.force_at and now >= run.force_at:
                self._force(hand, run, now)
            elif is_stopping():
                run.release_at = run.release_at or now + RELEASE_SECONDS
                if now >= run.release_at:
                    self._release(hand, run)
        except Exception:
            logger.exception("%s %s: the guard stumbled", run.job.kind, run.job.id)

    def _force(self, hand: Hand, run: Run, now: float) -> None:
        """End a job whose handler does not stop: its row ends, and its process with it where only that one is in it."""
        logger.error("%s %s: the handler does not stop", run.job.kind, run.job.id)
        metrics.note_handler(run.job.kind, now - run.began_at)
        hand.run = None
        try:
            match run.context.stopped_by:
                case JobCancelled():
                    lifecycle.finish([Outcome(job=run.job, is_cancelled=True)])
                case JobTimedOut():
                    lifecycle.finish([timed_out(run.job)])
        finally:  # where its end can't be written, the lease runs out, and the sweeper sees to it
            self._leave()

    def _release(self, hand: Hand, run: Run) -> None:
        """Put a job back because its worker has to stop."""
        logger.info("%s %s: put back, the worker stops", run.job.kind, run.job.id)
        hand.run = None
        run.context.stop(LeaseLost("The worker stops."))
        try:
            lifecycle.release(run.job)
        finally:  # where it can't be written, the lease runs out, and the sweeper sees to it
            self._leave()

    def _leave(self) -> None:
        """Leave a handler that can't be waited for: end the process with it, or count its slot as leaked."""
        if self._process.can_exit:
            wakeup.flush(1.0)
            doorbell.flush(1.0)
            os._exit(1)
        self._process.leaked += 1

    def _tell_seen(self) -> None:
        if time.monotonic() < self._next_seen:
            return
        self._next_seen = time.monotonic() + SEEN_SECONDS
        try:
            self._process.tell_seen()
            spool.write_down()
        except (DatabaseError, InterfaceError):
            connection.close()


def is_beat_due(run: Run, now: float) -> bool:
    """Tell whether it is time to renew a job's lease, or to write what its handler has said."""
    return now >= run.next_beat or (now >= run.next_write and run.context.has_notes)
