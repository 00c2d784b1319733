"""What a claim and a submission cost beside a million pending jobs, three million finished ones, and their removal.

    python -m benchmarks.claims [--database sqlite|postgresql] [--parts pending,shapes,finished,removal]

Prints the curves with the plan of the claim, and exits with 1 if they aren't flat or a submission waits too long. No
worker runs: this process claims, ends and submits, so that as many jobs stand there at the end as at the beginning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks import rounds
from benchmarks.hand.finding import Finding
from benchmarks.rounds import Failed
from benchmarks.stack import servers

PENDING_SIZES = (1_000, 10_000, 100_000, 1_000_000)
FINISHED_SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
PARTS = ("pending", "shapes", "finished", "removal")
SAMPLES = 200


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--most-pending", type=int, default=PENDING_SIZES[-1])
    parser.add_argument("--most-crowded", type=int, default=100_000, help="pending jobs of the other shapes")
    parser.add_argument("--most-finished", type=int, default=FINISHED_SIZES[-1])
    parser.add_argument("--expired", type=int, default=100_000, help="jobs that are removed, --rounds times")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="claims of one job beside each crowd")
    options = parser.parse_args()
    with servers(options.database, kabar=[]):
        from benchmarks.claims.shapes import declare_kinds, new_users

        declare_kinds()
        owners = new_users()
        rounds.print_machine({"database": options.database, "samples": options.samples})
        findings = [_found(each) for each in _questions(options, owners)]
    return int(any(each.faults for each in findings))


def _questions(options: argparse.Namespace, owners: Sequence[int]) -> Iterator[Callable[[], Finding]]:
    from benchmarks.claims.curve import curve
    from benchmarks.claims.removal import remove_beside_submissions
    from benchmarks.claims.shapes import finished_shape, pending_shapes

    parts = options.parts.split(",")
    plain, *others = pending_shapes(owners)
    if "pending" in parts:
        yield partial(curve, plain, _up_to(options.most_pending, PENDING_SIZES), options.samples)
    if "shapes" in parts:
        for shape in others:
            yield partial(curve, shape, (PENDING_SIZES[0], options.most_crowded), options.samples)
    if "finished" in parts:
        yield partial(curve, finished_shape(owners), _up_to(options.most_finished, FINISHED_SIZES), options.samples)
    if "removal" in parts:
        for _ in range(options.rounds):
            yield partial(remove_beside_submissions, owners[0], options.expired)


def _up_to(most: int, sizes: Sequence[int]) -> Sequence[int]:
    return [*(each for each in sizes if each < most), most]


def _found(find_out: Callable[[], Finding]) -> Finding:
    """Find one thing out and print it; what doesn't come to its end is a fault, and the others go on."""
    try:
        finding = find_out()
    except Failed as failure:
        finding = Finding(title="A part did not come to its end", lines=[], faults=[str(failure)])
    finding.print()
    return finding


if __name__ == "__main__":
    sys.exit(main())
