"""What the tests of the jobs room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs import runner
from jobs.scribe import Scribe


@pytest.fixture(autouse=True)
def scribes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Scribe]]:
    """Give what `runner.work` runs a scribe of the test's own, whose connection ends with it; lists those made."""
    made: list[Scribe] = []

    def new_scribe() -> Scribe:
        scribe = Scribe()
        scribe.start()
        made.append(scribe)
        return scribe

    monkeypatch.setattr(runner, "scribe", new_scribe)
    yield made
    for each in made:
        each.close()
