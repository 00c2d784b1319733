"""schemathesis tries each operation of the document on a running Kabar: nothing gets a 500 or an undocumented answer.

All its checks and phases, always with the same cases: valid and invalid values of each parameter and field one by one,
then random ones, then sequences along the links of the document.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT, Stack

EXAMPLES = 5
"""Random cases for each operation; the systematic ones come on top."""
RUN = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


@pytest.mark.postgresql_only  # the stricter of the two, in what it takes and in what may come between two statements
@pytest.mark.timeout(420)
def test_nothing_gets_a_500_or_an_undocumented_answer(stack: Stack, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text("")  # and none that stands in a folder above
    command = [
        *(sys.executable, "-c", RUN, "--config-file", str(config), "run", f"{stack.url}/api/schema"),
        *("--header", f"Authorization: Bearer {stack.token('kari')}"),
        *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
        *(
            "--max-examples",
            str(EXAMPLES),
            "--generation-deterministic",
            "--generation-allow-x00",
            "false",
            "--no-shrink",
            "--request-timeout",
            "10",
        ),
        *("--suppress-health-check", "all", "--continue-on-failure", "--no-color", "--output-truncate", "false"),
    ]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
