"""How many unfinished jobs a user may have at once (`KABAR_MAX_UNFINISHED`)."""

from __future__ import annotations

from django.conf import settings

from jobs.failures import TooManyUnfinished
from jobs.models import Job, Status


def check_unfinished(owner_id: int, more: int = 1) -> None:
    """Refuse jobs that would be too many; what others submit for the user at the same moment isn't seen.

    Args:
        owner_id: whose.
        more: how many are to come.

    Raises:
        TooManyUnfinished: the user would have more than one may have.
    """
    most: int = settings.MAX_UNFINISHED
    if most > 0 and (more > most or _unfinished(owner_id, most) + more > most):
        raise TooManyUnfinished(most)


def _unfinished(owner_id: int, most: int) -> int:
    """Count up to `most`. Index: job_unfinished, which has all that is asked."""
    unfinished = Job.objects.filter(owner_id=owner_id, status__in=[Status.PENDING, Status.RUNNING])
    return unfinished.values_list("owner_id")[:most].count()
