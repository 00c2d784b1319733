"""How many jobs somebody has, by status: one query of bounded cost for the tabs and the dateline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

from django.db.models import Count, Q

from jobs.models import Job, Status
from jobs.pages.wording import say_count
from jobs.visibility import Viewer

MOST_COUNTED = 10_000


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of the newest jobs, up to `MOST_COUNTED` of them."""

    total: int
    by_status: dict[Status, int]
    failed_today: int

    @property
    def is_capped(self) -> bool:
        return self.total > MOST_COUNTED

    def words(self, status: Status | None = None) -> str:
        """Write the number of jobs of a status, or of all; `+` where there may be more."""
        if status is None:
            return say_count(self.total if not self.is_capped else MOST_COUNTED + 1, MOST_COUNTED)
        count = self.by_status[status]
        return say_count(count, count - 1) if self.is_capped else say_count(count, MOST_COUNTED)

    @property
    def running(self) -> int:
        return self.by_status[Status.RUNNING]

    @property
    def waiting(self) -> int:
        return self.by_status[Status.PENDING]


def count_jobs(viewer: Viewer, now: datetime) -> Counts:
    """Count the jobs of a viewer and their teams. Indexes: job_by_owner, job_by_team."""
    midnight = datetime.combine(now.date(), time.min, now.tzinfo)
    newest = Job.objects.filter(viewer.visible(scope_all=False)).order_by("-id")
    found = newest.values("status", "finished_at")[: MOST_COUNTED + 1].aggregate(
        total=Count("status"),
        failed_today=Count("status", filter=Q(status=Status.FAILED, finished_at__gte=midnight)),
        **{status.name: Count("status", filter=Q(status=status)) for status in Status},
    )
    return Counts(
        total=found["total"],
        by_status={status: found[status.name] for status in Status},
        failed_today=found["failed_today"],
    )
