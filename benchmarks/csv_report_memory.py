"""How much memory and time `csv.report` takes for a large file.

    python -m benchmarks.csv_report_memory [--size-mb 1000] [--shape varied|keys|wide]

Makes the file in a temporary folder, runs the kind's own handler on it in a process of its own, prints seconds, MB/s
and the peak of resident memory. Exits with 1 where that is over 500 MB, or the report is no report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.local_file import LocalFile

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "jobs" / "builtin" / "sample" / "birdstrikes.csv"
LIMIT_MB = 500
TIMEOUT_SECONDS = 1800
SHAPES = ("varied", "keys", "wide")


class QuietContext:
    """The part of a handler's context that `csv.report` uses, kept in memory."""

    def __init__(self) -> None:
        self.reports = 0
        self.artifact_bytes = 0

    def progress(self, percent: float | None = None, message: str | None = None, **counts: float | None) -> None:
        self.reports += 1

    def log(self, message: str, level: str = "info") -> None:
        print(f"  {level}: {message}", file=sys.stderr)

    def check_cancelled(self) -> None:
        pass

    def attach(self, name: str, source: bytes, content_type: str | None = None, *, main: bool = False) -> None:
        self.artifact_bytes += len(source)


def make_file(path: Path, size_mb: int, shape: str) -> None:
    """Write a CSV of about a size.

    Args:
        path: where to.
        size_mb: in millions of bytes.
        shape: `varied` repeats the rows of birdstrikes.csv with a running number, costs and airports that vary, so
            that some columns have ever more values; `keys` has ten columns that never repeat a value; `wide` has 2,000.
    """
    chance = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = {"varied": _varied_rows, "keys": _key_rows, "wide": _wide_rows}[shape](chance)
        written = 0
        for text in rows:
            written += file.write(text)
            if written >= size_mb * 1_000_000:
                return


def _varied_rows(chance: random.Random) -> Iterator[str]:
    header, *rows = SOURCE.read_text(encoding="utf-8").splitlines()
    yield f"Record,{header}\n"
    number = 0
    while True:
        for row in rows:
            number += 1
            airport, rest = row.split(",", 1)
            head, cost, speed = rest.rsplit(",", 2)
            cost = cost if chance.random() < 0.7 else str(chance.randrange(10_000_000))
            yield f"{number},{airport} {number % 90_000},{head},{cost},{speed}\n"


def _key_rows(chance: random.Random) -> Iterator[str]:
    yield ",".join(f"key {index}" for index in range(10)) + "\n"
    number = 0
    while True:
        number += 1
        day = f"2024-{number % 12 + 1:02d}-{number % 28 + 1:02d}"
        clock = f"{day}T{number % 24:02d}:{number % 60:02d}:00.{number % 10**6:06d}"
        yield (
            f"{number},{chance.random()},{chance.gauss(0, 1):.9f},id-{number:010d},{chance.random() * 1e9:.2f},{clock},"
            f"{chance.getrandbits(64):x},{number * 7},{chance.random():.8f},word {number}\n"
        )


def _wide_rows(chance: random.Random) -> Iterator[str]:
    yield ",".join(f"column {index}" for index in range(2000)) + "\n"
    while True:
        yield ",".join(f"{chance.getrandbits(28)}" for _ in range(2000)) + "\n"


def run_handler(path: Path) -> dict[str, Any]:  # Any: JSON
    """Run the real handler on a file, in this process."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from jobs.kinds import get_kind

    context: Any = QuietContext()
    started = time.perf_counter()
    result = get_kind("csv.report").handler(context, {"file": LocalFile(path=path)})
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "peakMb": peak / (1e6 if sys.platform == "darwin" else 1e3),  # bytes there, KiB here
        "rows": result["rows"],
        "columns": result["columnCount"],
        "resultBytes": len(json.dumps(result, allow_nan=False)),
        "reportBytes": context.artifact_bytes,
        "progressReports": context.reports,
    }


def main() -> int:
    """Make the file, run the handler in a process of its own, judge its memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size-mb", type=int, default=1000)
    parser.add_argument("--shape", choices=SHAPES, default="varied")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # the process of its own
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run_handler(options.run)))
        return 0
    with tempfile.TemporaryDirectory(prefix="kabar-benchmark-") as folder:
        path = Path(folder) / f"{options.shape}.csv"
        make_file(path, options.size_mb, options.shape)
        size_mb = path.stat().st_size / 1e6
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.csv_report_memory", "--run", str(path)],
            cwd=ROOT,
            env=os.environ | {"KABAR_DATA": str(Path(folder) / "data")},
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    figures = json.loads(child.stdout)
    print(
        f"csv.report, {options.shape}, {size_mb:,.0f} MB, {figures['rows']:,} rows, {figures['columns']:,} columns: "
        f"{figures['seconds']:.1f} s, {size_mb / figures['seconds']:.1f} MB/s, peak {figures['peakMb']:.0f} MB RSS, "
        f"report {figures['reportBytes'] / 1e3:,.0f} kB, result {figures['resultBytes'] / 1e3:,.0f} kB"
    )
    if figures["peakMb"] > LIMIT_MB or not figures["reportBytes"]:
        print(f"Over the limit of {LIMIT_MB} MB.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
