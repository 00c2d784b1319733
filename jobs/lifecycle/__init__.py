"""The life of a job: the only writer of `status`. `docs/lifecycle.md` has the drawing.

Every transition is one transaction: a guarded update, its event, and what subscribers add to it. A guard that matches
nothing means that somebody else moved the job: the caller is told, and writes no more. What a worker writes carries the
fence of its claim, so a worker that was thought dead and comes back writes nothing.

The table of transitions stands in `transitions`; who moves a job along them has a file each: users promise and steer,
workers work, sweepers recover.
"""

from jobs.lifecycle.promising import (
    IDEMPOTENCY_HOURS,
    Idempotency,
    Submission,
    accept,
    accept_batch,
    recall,
    remember_standing,
    standing_jobs,
)
from jobs.lifecycle.recovering import disown, expire, is_free, promote, rescue, rescue_worker
from jobs.lifecycle.steering import cancel, reopen, withdraw
from jobs.lifecycle.transitions import LEASE_SECONDS, MOST_CRASHES, TRANSITIONS, close_batches, complete_batches
from jobs.lifecycle.working import (
    Beat,
    Held,
    Outcome,
    Traded,
    beat,
    begin,
    claim,
    finish,
    foresee_begin,
    give_back,
    has_ended,
    release,
    stand_alone,
    trade,
    wanted,
)

__all__ = [
    "IDEMPOTENCY_HOURS",
    "LEASE_SECONDS",
    "MOST_CRASHES",
    "TRANSITIONS",
    "Beat",
    "Held",
    "Idempotency",
    "Outcome",
    "Submission",
    "Traded",
    "accept",
    "accept_batch",
    "beat",
    "begin",
    "cancel",
    "claim",
    "close_batches",
    "complete_batches",
    "disown",
    "expire",
    "finish",
    "foresee_begin",
    "give_back",
    "has_ended",
    "is_free",
    "promote",
    "recall",
    "release",
    "remember_standing",
    "reopen",
    "rescue",
    "rescue_worker",
    "stand_alone",
    "standing_jobs",
    "trade",
    "wanted",
    "withdraw",
]
