"""Clients that are generated from the OpenAPI document work: one in Python runs, one in TypeScript compiles."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack

pytestmark = pytest.mark.on_any_database

GENERATE = "from openapi_python_client.cli import app; app()"
PACKAGE = "kabar_client"
TYPESCRIPT = """
import type { components, operations, paths } from "./kabar.d.ts";

type Submission = operations["submitJob"]["requestBody"]["content"]["application/json"];
type Job = components["schemas"]["SingleJob"];

const submission: Submission = { kind: "demo.countdown", params: { seconds: 1, steps: 2 } };
// @ts-expect-error steps is a number
const wrong: Submission = { kind: "demo.countdown", params: { steps: "two" } };
const done = (job: Job): boolean => job.status === "COMPLETED" && job.progress?.percent === 100;
const path: keyof paths = "/api/jobs/{jobId}";
export { done, path, submission, wrong };
"""


@pytest.fixture(scope="module")
def document(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(stack.client().get("/api/schema").content)
    return path


@pytest.fixture(scope="module")
def package(document: Path) -> Iterator[Path]:
    """Generate the Python client and let it be imported as `kabar_client`."""
    folder = document.parent
    options = ["--path", str(document), "--output-path", str(folder / PACKAGE), "--meta", "none", "--fail-on-warning"]
    run([sys.executable, "-c", GENERATE, "generate", *options], folder)
    sys.path.insert(0, str(folder))
    yield folder / PACKAGE
    sys.path.remove(str(folder))


def run(command: list[str], folder: Path) -> None:
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}  # the generator formats with ruff, where it is
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_python_client_submits_polls_and_reads_events(stack: Stack, package: Path) -> None:
    models, client_module = (importlib.import_module(f"{PACKAGE}.{each}") for each in ("models", "client"))
    jobs: dict[str, Any] = {
        name: importlib.import_module(f"{PACKAGE}.api.jobs.{name}")
        for name in ("submit_job", "get_job", "list_job_events")
    }
    with client_module.AuthenticatedClient(base_url=stack.url, token=stack.token()) as client:
        params = models.DemoCountdownParams(seconds=0.2, steps=2)
        body = models.DemoCountdownSubmission(kind="demo.countdown", params=params, tags=["generated"])
        receipt = jobs["submit_job"].sync(client=client, body=body)
        assert isinstance(receipt, models.Receipt)
        job = jobs["get_job"].sync(receipt.job_id, client=client, wait=30)
        assert isinstance(job, models.SingleJob)
        assert (job.status, job.result, job.tags) == (
            models.JobStatus.COMPLETED,
            {"steps": 2, "attempt": 1},
            ["generated"],
        )
        events = jobs["list_job_events"].sync(receipt.job_id, client=client)
        assert [each.sequence for each in events.events] == [1, 2, 3, 4]
        assert events.events[-1].type_ == "job.completed"
        refused = jobs["submit_job"].sync(
            client=client, body=models.DemoCountdownSubmission(kind="demo.countdown", priority=101)
        )
        assert isinstance(refused, models.Problem)
        assert [each.pointer for each in refused.errors] == ["/priority"]


def test_a_python_client_sends_files(stack: Stack, package: Path) -> None:
    models, client_module, types = (
        importlib.import_module(f"{PACKAGE}.{each}") for each in ("models", "client", "types")
    )
    submit = importlib.import_module(f"{PACKAGE}.api.jobs.submit_job")
    file = types.File(payload=b"a,b\n1,2\n", file_name="numbers.csv", mime_type="text/csv")
    form = models.SubmissionForm(job=models.CsvReportSubmission(kind="csv.report"), file=file)
    with client_module.AuthenticatedClient(base_url=stack.url, token=stack.token()) as client:
        receipt = submit.sync(client=client, body=form)
    assert isinstance(receipt, models.Receipt)
    assert receipt.job.params["file"] == "numbers.csv"


def test_a_python_client_is_sound_for_mypy(package: Path) -> None:
    # Of its client.py, which is the same for any document, mypy has a complaint.
    made_of_ours = [option for each in ("models", "api") for option in ("-p", f"{PACKAGE}.{each}")]
    options = ["--config-file=", "--strict", "--cache-dir=/dev/null", "--follow-imports=silent"]
    run([sys.executable, "-m", "mypy", *options, *made_of_ours], package.parent)


@pytest.mark.where_node_is
def test_a_typescript_client_compiles(document: Path) -> None:
    tools = {name: shutil.which(name) for name in ("openapi-typescript", "tsc")}
    if missing := [name for name, path in tools.items() if path is None]:
        pytest.skip(
            f"no {' and no '.join(missing)} on PATH; `npm install -g openapi-typescript typescript` brings them"
        )
    folder = document.parent
    (folder / "use.ts").write_text(TYPESCRIPT)
    generate = [str(tools["openapi-typescript"]), str(document), "-o", "kabar.d.ts", "--default-non-nullable", "false"]
    run(generate, folder)
    run([str(tools["tsc"]), "--noEmit", "--strict", "--allowImportingTsExtensions", "use.ts"], folder)
