"""Where a job comes in: the part of the statements that both vendors share (`docs/decisions/turns-and-limits.md`).

Users take turns within one priority: each job gets a number behind the last one of its user that stands in line, or the
first number in line where there is none; claims go by that number. So a user's ten thousand jobs get ten thousand
numbers, and the one job of another gets the next. Jobs of kinds with a limit stand in line at their gate first.
"""

from __future__ import annotations


def firsts(greatest: str, is_known: str) -> str:
    """Give the CTE `firsts(owner_id, queue, priority, lane, turn)`: the next number in each of `lanes`.

    It is materialized, or it would be made anew for each job that comes.

    Args:
        greatest: the vendor's function for the larger of two values.
        is_known: the vendor's test of whether `j.kind` is declared: a job that nobody can run stays first in line, and
            doesn't count.
    """
    in_line = """j.queue = l.queue AND j.priority = l.priority AND j.status = 'PENDING' AND j.ready_at IS NOT NULL"""
    at_gate = "j.kind = l.lane AND j.gate > 0 AND j.gate = 2 AND j.priority = l.priority"
    return f"""
firsts AS MATERIALIZED (
    SELECT owner_id, queue, priority, lane, CASE lane WHEN '' THEN {greatest}(
        {_newcomers_turn(f"{in_line} AND {is_known}", "last.queue = l.queue")},
        COALESCE((SELECT turn + 1 FROM jobs_job AS j WHERE j.owner_id = l.owner_id AND {in_line}
            ORDER BY turn DESC LIMIT 1), 0))
    ELSE {greatest}(
        {_newcomers_turn(at_gate, "last.kind = l.lane")},
        COALESCE((SELECT max(turn) + 1 FROM jobs_job AS j WHERE j.kind = l.lane AND j.owner_id = l.owner_id
            AND j.gate > 0 AND j.gate IN (1, 2) AND j.priority = l.priority), 0))
    END AS turn
    FROM lanes AS l
)"""  # noqa: S608 - no value of anybody's


def _newcomers_turn(line: str, is_of_line: str) -> str:
    """Give where a user comes in who has nobody in line: at its head, or behind it if the last one was served just now.

    Without the latter, two users who submit one job after another would pass a third one's backlog for ever.
    """
    return f"""COALESCE((
            SELECT head.turn + CASE WHEN EXISTS (
                SELECT 1 FROM (SELECT turn, queue, kind, priority FROM jobs_job WHERE owner_id = l.owner_id
                    ORDER BY id DESC LIMIT 1) AS last
                WHERE {is_of_line} AND last.priority = l.priority AND last.turn >= head.turn
            ) THEN 1 ELSE 0 END
            FROM (SELECT turn FROM jobs_job AS j WHERE {line} ORDER BY turn LIMIT 1) AS head), 0)"""  # noqa: S608


def placed(greatest: str, is_known: str) -> str:
    """Give the CTE `placed(id, turn)` for the jobs in `coming(id, owner_id, queue, priority, kind, gate)`."""
    return f"""
lanes AS (
    SELECT DISTINCT owner_id, queue, priority, CASE WHEN gate > 0 THEN kind ELSE '' END AS lane FROM coming
), {firsts(greatest, is_known)}, placed AS (
    SELECT c.id, f.turn - 1 + row_number() OVER (PARTITION BY c.owner_id, c.queue, c.priority, f.lane ORDER BY c.id)
        AS turn
    FROM coming AS c JOIN firsts AS f ON f.owner_id = c.owner_id AND f.queue = c.queue AND f.priority = c.priority
        AND f.lane = CASE WHEN c.gate > 0 THEN c.kind ELSE '' END
)"""  # noqa: S608 - no value of anybody's
