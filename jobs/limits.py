"""Kinds that let only so many of their jobs run at once, in all or for each user.

Jobs of such a kind stand at gates before they stand in line, so that a claim never walks past somebody who may not run
yet: first at their user's, then at their kind's. A job that ends makes room, and whoever is first at the gate steps
forward in the same transaction. The sweeper looks at all gates as well (`docs/decisions/turns-and-limits.md`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet

from jobs import doorbell
from jobs.failures import UnknownKind
from jobs.kinds import Kind, all_kinds, get_kind
from jobs.models import Gate, Job
from jobs.sql import statements


def first_gate(kind: Kind) -> Gate:
    """Say where jobs of a kind wait once they are due."""
    if kind.max_running_per_user:
        return Gate.USER
    return Gate.KIND if kind.max_running else Gate.NONE


def gates() -> dict[str, int]:
    """List the kinds that have a limit, with their first gate."""
    return {each.name: int(first_gate(each)) for each in all_kinds() if each.is_limited}


def let_in(moved: Iterable[Job]) -> None:
    """Have others step forward where jobs came to a gate, or ended and made room; inside the transaction of the move.

    Args:
        moved: jobs that have just moved; those of kinds without a limit cost nothing.
    """
    owners: dict[str, set[int]] = defaultdict(set)
    for job in moved:
        owners[job.kind].add(job.owner_id)
    for name in sorted(owners):  # the same order for all, since each locks its kind
        try:
            kind = get_kind(name)
        except UnknownKind:
            continue
        if kind.is_limited:
            _open(kind, owners[name])


def look_at_gates() -> int:
    """Have jobs step forward at all gates of the kinds that this process knows. Index: job_gate.

    Returns:
        How many came in line.
    """
    count = 0
    for kind in all_kinds():
        waiting = at_gates(kind)
        if waiting.exists():
            owners = set(waiting.order_by().values_list("owner", flat=True).distinct())
            with transaction.atomic():
                count += _open(kind, owners)
    return count


def at_gates(kind: Kind) -> QuerySet[Job]:
    """Find the due jobs of a kind that wait for others to end. Index: job_gate."""
    return Job.objects.filter(kind=kind.name, gate__gt=0, gate__in=[Gate.USER, Gate.KIND])


def _open(kind: Kind, owner_ids: Collection[int]) -> int:
    """Have jobs step forward at both gates of a kind while there is room."""
    statements().lock_kind(kind.name)
    if kind.max_running is None and kind.max_running_per_user:  # those at a gate that is no more
        Job.objects.filter(kind=kind.name, gate=Gate.KIND).update(gate=Gate.USER)
    for owner_id in sorted(owner_ids):
        theirs = Job.objects.filter(kind=kind.name, owner=owner_id, gate__gt=0)
        most, inside = kind.max_running_per_user, theirs.filter(gate__in=[Gate.KIND, Gate.THROUGH])
        step_forward(theirs.filter(gate=Gate.USER), None if most is None else most - inside.count(), Gate.KIND)
    all_of_it = Job.objects.filter(kind=kind.name, gate__gt=0)
    most, inside = kind.max_running, all_of_it.filter(gate=Gate.THROUGH)
    entering = step_forward(
        all_of_it.filter(gate=Gate.KIND), None if most is None else most - inside.count(), Gate.THROUGH
    )
    if entering:
        statements().make_due(entering, {})
        Job.objects.filter(pk__in=entering).update(gate=Gate.THROUGH)
        doorbell.ring_on_commit(kind.queue, len(entering))
    return len(entering)


MOST_STEPS = 1000
"""How many step forward at once; the sweeper has the others follow."""


def step_forward(waiting: QuerySet[Job], room: int | None, gate: Gate) -> list[UUID]:
    """Have the first at a gate step to the next one.

    Args:
        waiting: those who stand at the gate.
        room: for how many; None is for all.
        gate: where they go.

    Returns:
        Who did.
    """
    count = MOST_STEPS if room is None else min(room, MOST_STEPS)
    if count <= 0:
        return []
    in_order = waiting.select_for_update(skip_locked=True).order_by(F("priority").desc(), "turn", "id")
    stepping = list(in_order.values_list("pk", flat=True)[:count])
    if stepping and gate == Gate.KIND:  # whoever has few jobs there at most is served in the order of arrival
        Job.objects.filter(pk__in=stepping).update(gate=gate, turn=time.time_ns() // 1000)
    elif stepping:
        Job.objects.filter(pk__in=stepping).update(gate=gate)
    return stepping
