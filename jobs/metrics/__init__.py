"""What operators watch: counts of what happened, and gauges of what stands (`docs/metrics.md`).

What happened is counted where it happens, into files that outlive their process; `counted` has the counts of this room.
What stands is asked of the database when somebody reads (`gauges`). No count ever fails what it counts, and
`docs/decisions/metrics.md` says why it is so.
"""

from jobs.metrics.counted import (
    Door,
    connection,
    count_accepted,
    count_crash,
    count_lost_lease,
    count_move,
    count_request,
    count_round,
    count_trade,
    note_handler,
)
from jobs.metrics.faults import harmless

__all__ = [
    "Door",
    "connection",
    "count_accepted",
    "count_crash",
    "count_lost_lease",
    "count_move",
    "count_request",
    "count_round",
    "count_trade",
    "harmless",
    "note_handler",
]
