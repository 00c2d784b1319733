"""Jobs from a shell, in a terminal and without one, on the real stack."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.e2e.stack import ROOT, Client, Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.on_any_database

END_SECONDS = 40.0


@dataclass(kw_only=True)
class Shell:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    shown: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """What its stderr has shown so far."""
        return self.shown.decode(errors="replace")

    def end(self) -> tuple[str, int]:
        """Wait for its end, and give its stdout and its exit code."""
        stdout, _ = self.process.communicate(timeout=END_SECONDS)
        return stdout.decode(), self.process.returncode


@contextmanager
def shell(stack: Stack, *arguments: str, is_terminal: bool) -> Iterator[Shell]:
    """Run a command whose stderr is a terminal or a pipe."""
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    if is_terminal:
        termios.tcsetwinsize(writer, (24, 100))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env={**stack.env, "TERM": "xterm", "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    os.close(writer)
    running = Shell(process=process)

    def read() -> None:
        try:
            while some := os.read(reader, 4096):
                running.shown += some
        except OSError:  # a terminal's way to say that its last writer is gone
            return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        thread.join()
        os.close(reader)


def test_a_waiting_submission_prints_the_result_alone_on_stdout(stack: Stack, client: Client) -> None:
    with shell(stack, "submit", "demo.countdown", "seconds=1", "--wait", is_terminal=False) as run:
        stdout, code = run.end()
        wait_until(lambda: "completed" in run.text)
    assert (json.loads(stdout), code) == ({"steps": 10, "attempt": 1}, 0)
    assert "attempt 1 of 3 has begun" in run.text
    assert "\r" not in run.text
    assert "|" not in run.text


def test_a_job_that_fails_ends_a_waiting_submission_with_1_after_its_attempts(stack: Stack, client: Client) -> None:
    params = ["seconds=0", "failures=5"]
    with shell(stack, "submit", "demo.countdown", *params, "--max-attempts", "2", "--wait", is_terminal=False) as run:
        assert run.end() == ("", 1)
        wait_until(lambda: "failed after attempt 2" in run.text)
    assert "the next attempt at" in run.text


def test_a_terminal_sees_a_bar_below_the_events(stack: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 6, "steps": 60})
    with shell(stack, "watch", job_id, is_terminal=True) as run:
        stdout, code = run.end()
        wait_until(lambda: "completed" in run.text)
    assert (json.loads(stdout), code) == ({"steps": 60, "attempt": 1}, 0)
    percents = {line.split("%")[0].strip() for line in run.text.split("\r") if "█" in line}
    assert len(percents) >= 2
    assert "attempt 1 of 3 has begun" in run.text


def test_ctrl_c_leaves_the_job_running(stack: Stack, client: Client) -> None:
    job_id = client.submit(params={"seconds": 60, "steps": 600})
    with shell(stack, "watch", job_id, is_terminal=True) as run:
        wait_until(lambda: "has begun" in run.text, END_SECONDS)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == ("", 130)
        wait_until(lambda: "the job goes on" in run.text)
    job = client.job(job_id)
    assert (job["status"], job["cancelRequestedAt"]) == ("RUNNING", None)
    client.post(f"/api/jobs/{job_id}/cancel")
    client.finished(job_id)
