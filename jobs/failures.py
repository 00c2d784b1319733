"""The errors of the jobs room: what goes wrong, in words that tell the user what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.models import IdempotencyKey, Job


class JobsError(Exception):
    """The family of this room."""


class JobFailure(JobsError):
    """Raised by a handler to fail its attempt with an error that its user reads.

    Args:
        code: a stable word for programs, such as `not_a_csv_file`.
        message: one sentence for people; no path, no traceback.
        retry: whether another attempt could go better.
        retry_after: seconds until the next attempt; a pause that grows with each failure if left out.
    """

    def __init__(self, code: str, message: str, *, retry: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry = retry
        self.retry_after = retry_after


class DoNotRetry(JobFailure):
    """Raised by a handler to fail its job for good, however many attempts are left."""

    def __init__(self, message: str, code: str = "handler_failed") -> None:
        super().__init__(code, message)


class RetryAfter(JobFailure):
    """Raised by a handler to have its job tried again after so many seconds, while attempts are left.

    Raises:
        ValueError: the seconds aren't between 0 and a year.
    """

    LONGEST_SECONDS = 365 * 24 * 3600.0

    def __init__(self, seconds: float, message: str = "The job asked to be tried later.", code: str = "retry_later"):
        if not 0 <= seconds <= self.LONGEST_SECONDS:
            raise ValueError(f"seconds is {seconds!r}; it must be between 0 and {self.LONGEST_SECONDS:,.0f}.")
        super().__init__(code, message, retry=True, retry_after=seconds)


class JobCancelled(JobsError):
    """Raised inside a handler, by its context, when its job is to be cancelled. Let it pass."""


class JobTimedOut(JobsError):
    """Raised inside a handler, by its context, when its time is over. Let it pass."""


class LeaseLost(JobsError):
    """Raised inside a handler, by its context, when its job was given to somebody else. Let it pass."""


class UnknownKind(JobsError):
    """No installed app declares this kind."""


class WrongState(JobsError):
    """The job stands where this can't be done. Carries the job as it is."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class UniqueKeyTaken(JobsError):
    """Another job of this user with the same kind and unique key isn't final yet."""

    def __init__(self, standing: Job) -> None:
        super().__init__("Another job with this uniqueKey isn't finished yet.")
        self.standing = standing


class UniqueKeyRepeated(JobsError):
    """Two jobs of one batch have the same kind and unique key."""


class TooManyUnfinished(JobsError):
    """The user has as many unfinished jobs as one may have (`KABAR_MAX_UNFINISHED`)."""

    RETRY_AFTER_SECONDS = 10

    def __init__(self, most: int) -> None:
        super().__init__(f"You may have {most:,} unfinished jobs; this would be more. Come back when some are done.")


class KeyReused(JobsError):
    """An idempotency key came again with another submission."""


class AlreadySubmitted(JobsError):
    """An idempotency key came again with the same submission; carries what it made."""

    def __init__(self, known: IdempotencyKey) -> None:
        super().__init__("This submission was accepted before.")
        self.known = known
