"""How fast news reaches watchers by WebSocket, beside a bare Channels consumer in a group.

    python -m benchmarks.push [--database sqlite|postgresql] [--watchers 1000] [--rounds 5]

Both sides have the same server, the same channel layer, the same client and messages of the same size. Kabar's time
begins when the event is committed; the bare side has no database and begins when the message is given to the layer.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import rounds
from benchmarks.rounds import Comparison, Contender, percentile
from benchmarks.stack import ROOT, servers
from benchmarks.watchers import TIMEOUT_SECONDS, Crowd

EVENTS = 100
"""A round, to one watcher."""
CROWD_EVENTS = 3
"""A round, to all watchers; the median counts."""
PAUSE_SECONDS = 0.01
US, BARE = "Kabar", "bare Channels"


class Publisher:
    """The process that makes news.

    Args:
        process: speaks the lines of `benchmarks.publisher`.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.job_id = self._line()

    def publish(self, command: str) -> float:
        """Have one event made, and give the monotonic time of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def publisher(owner_id: int) -> Iterator[Publisher]:
    """Start the process that makes news, and end it."""
    command = [sys.executable, "-m", "benchmarks.publisher", str(owner_id)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Publisher(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # its input's end is its own


@dataclass(frozen=True, kw_only=True)
class Side:
    """A crowd and how to have it told something."""

    loop: asyncio.Runner
    crowd: Crowd
    publish: Callable[[], float]

    def times_ms(self, events: int) -> list[float]:
        """Have events told one after another, and give how long each took until all had it."""
        return self.loop.run(self._times_ms(events))

    async def _times_ms(self, events: int) -> list[float]:
        times = []
        for _ in range(events):
            await asyncio.sleep(PAUSE_SECONDS)
            arrived = self.crowd.expect()
            begun = await asyncio.to_thread(self.publish)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                times.append((await arrived - begun) * 1000)
        return times


def compare_latency(us: Side, bare: Side, count: int) -> list[Comparison]:
    """Measure one watcher: the 50th and the 99th percentile of each round."""
    tails: dict[str, list[float]] = {US: [], BARE: []}

    def median_noting_tail(name: str, side: Side) -> float:
        times = side.times_ms(EVENTS)
        tails[name].append(percentile(times, 99))
        return percentile(times, 50)

    medians = rounds.compare(
        "Commit to one watcher, p50",
        "ms",
        [
            Contender(name=US, measure=lambda: median_noting_tail(US, us)),
            Contender(name=BARE, measure=lambda: median_noting_tail(BARE, bare)),
        ],
        count,
    )
    return [medians, Comparison(title="Commit to one watcher, p99", unit="ms", figures=tails)]


def compare_crowds(us: Side, bare: Side, watchers: int, count: int) -> Comparison:
    """Measure one event until the last of many watchers has it."""
    return rounds.compare(
        f"One event, until all of {watchers:,} watchers have it",
        "ms",
        [
            Contender(name=US, measure=lambda: statistics.median(us.times_ms(CROWD_EVENTS))),
            Contender(name=BARE, measure=lambda: statistics.median(bare.times_ms(CROWD_EVENTS))),
        ],
        count,
    )


def main() -> int:
    """Measure and print."""
    parser = rounds.parser(__doc__)
    parser.add_argument("--watchers", type=int, default=1000)
    options = parser.parse_args()
    with (
        servers(options.database, kabar=["web"], peers=["bare_channels"]) as running,
        asyncio.Runner() as loop,
    ):
        from django.contrib.auth import get_user_model

        from jobs.credentials import create_token

        owner = get_user_model().objects.create_user("benchmark")
        token = create_token(owner, "benchmark")
        with publisher(owner.pk) as news:
            ours = Crowd(
                f"ws://127.0.0.1:{running.port}/ws/jobs",
                {"Authorization": f"Bearer {token}"},
                json.dumps({"type": "subscribe", "jobId": news.job_id}),
            )
            theirs = Crowd(f"ws://127.0.0.1:{running.peer_port}/ws/bare", {})
            for crowd in (ours, theirs):
                loop.run(crowd.grow(1))
            us = Side(loop=loop, crowd=ours, publish=lambda: news.publish("kabar"))
            us.times_ms(10)  # warms up, and shows how long a message is
            size = len(ours.text)
            bare = Side(loop=loop, crowd=theirs, publish=lambda: news.publish(f"bare {size}"))
            bare.times_ms(10)
            rounds.print_machine({"database": options.database, "watchers": options.watchers, "message bytes": size})
            latency = compare_latency(us, bare, options.rounds)
            for crowd in (ours, theirs):
                loop.run(crowd.grow(options.watchers))
            us.times_ms(1)
            bare.times_ms(1)
            crowded = compare_crowds(us, bare, options.watchers, options.rounds)
            for each in [*latency, crowded]:
                each.print(US, beside=[BARE])
            for crowd in (ours, theirs):
                crowd.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
