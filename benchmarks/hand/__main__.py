"""What claiming by the handful must not cost: a halted child, urgent jobs, uneven ones, very long lines.

    python -m benchmarks.hand [--database sqlite|postgresql] [--rounds 3] [--rows 1000000]

Prints what it finds and exits with 1 if something doesn't hold. The worker has two prefork children, as it ships; the
first part alone takes half a minute, for it waits for a lease to run out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from benchmarks import backlog, rounds
from benchmarks.hand.finding import Finding
from benchmarks.hand.million import drain_beside_many
from benchmarks.hand.stopped_child import halt_a_child
from benchmarks.hand.uneven import run_uneven_jobs
from benchmarks.hand.urgent import probe_a_backlog
from benchmarks.rounds import Failed
from benchmarks.stack import servers

WARM_UP_JOBS = 200


def main() -> int:
    """Find out and print."""
    parser = rounds.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--rows", type=int, default=1_000_000, help="in line, and as many finished")
    parser.add_argument("--jobs", type=int, default=20_000, help="drained beside them")
    options = parser.parse_args()
    with servers(options.database, kabar=["worker", "sweeper"]) as running:
        from django.contrib.auth import get_user_model

        owner = get_user_model().objects.create_user("benchmark")
        for kind in ("bench.noop", "bench.probe"):
            backlog.drain(running, kind, WARM_UP_JOBS, owner.pk)
        rounds.print_machine({"database": options.database, "children": 2})
        beside_many = partial(drain_beside_many, rows=options.rows, jobs=options.jobs, times=options.rounds)
        findings = [
            found("A halted child", partial(halt_a_child, running, owner.pk)),
            found("Urgent jobs", partial(probe_a_backlog, running, owner.pk)),
            found("Handlers of unforeseen length", partial(run_uneven_jobs, running, owner.pk)),
            found("Long lines", partial(beside_many, running, owner.pk)),
        ]
    return int(any(each.faults for each in findings))


def found(title: str, find_out: Callable[[], Finding]) -> Finding:
    """Find one thing out and print it; a part that doesn't come to its end is a fault, and the others go on."""
    try:
        finding = find_out()
    except Failed as failure:
        finding = Finding(title=title, lines=[], faults=[str(failure)])
    finding.print()
    return finding


if __name__ == "__main__":
    sys.exit(main())
