"""The supervisor: one log, an order of starting and ending, a new start for what died, and nothing left behind."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest

from config.supervisor import NotReady, Role, Supervisor
from config.supervisor.kept_process import Backoff
from tests.waiting import wait_until

# Says that it is there, ends on SIGTERM, and writes into the file "ended" that it did.
POLITE = """
import os, pathlib, signal
def end(*_):
    with open("ended", "a") as file: file.write(os.environ["HONCHO_PROCESS_NAME"] + "\\n")
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print("here")
while True: signal.pause()
"""
# Ignores SIGTERM, as does its child.
STUBBORN = """
import os, pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child: pathlib.Path("child").write_text(str(child))
while True: signal.pause()
"""
# Leaves a child behind at once.
CARELESS = """
import os, pathlib, signal
child = os.fork()
if child == 0:
    while True: signal.pause()
pathlib.Path("draft").write_text(str(child))
os.rename("draft", "child")
"""
# Ends on SIGTERM, its child does not.
FAMILY = CARELESS.replace("while True", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while True") + (
    "while True: signal.pause()\n"
)

# A supervisor as `make run` has it. Its arguments: the Procfile; the grace of "web", and whether it is ever ready.
FOREGROUND = """
import sys
from pathlib import Path
from config.supervisor import Role, Supervisor
from config.supervisor.foreground import serve
roles = {"web": Role(grace_seconds=float(sys.argv[2]), is_ready=lambda _: sys.argv[3] != "never")}
stack = Supervisor(Path(sys.argv[1]), output=sys.stdout, roles=roles)
sys.exit(serve(stack, lambda: stack.say("all ready"), ready_seconds=0.2 if sys.argv[3] == "never" else 60))
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a Procfile whose lines run the Python programs that it is given."""

    def write(**programs: str) -> Path:
        lines = []
        for name, program in programs.items():
            (tmp_path / f"{name}.py").write_text(program)
            lines.append(f"{name}: python -I -S -u {name}.py\n")
        procfile = tmp_path / "Procfile"
        procfile.write_text("".join(lines))
        return procfile

    return write


def is_gone(pid: int) -> bool:
    """Tell whether a process runs no more; one that nobody has reaped yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def said(log: io.StringIO, text: str) -> Callable[[], bool]:
    return lambda: text in log.getvalue()


def matches(log: io.StringIO, pattern: str) -> Callable[[], bool]:
    return lambda: re.search(pattern, log.getvalue(), re.MULTILINE) is not None


def running(stack: Supervisor, name: str) -> int:
    pid = wait_until(lambda: stack.pid(name), describe=f"{name} to run")
    assert pid is not None
    return pid


def child_of(folder: Path) -> int:
    path = folder / "child"
    wait_until(lambda: path.exists() and path.read_text(), describe="the child's number")
    return int(path.read_text())


def test_each_line_carries_the_time_and_the_name(write: Write) -> None:
    log = io.StringIO()
    with Supervisor(write(web=POLITE, worker=POLITE), counts={"worker": 2}, output=log):
        for name in ("web.1", "worker.1", "worker.2"):
            wait_until(matches(log, rf"^\d\d:\d\d:\d\d {re.escape(name)} +\| here$"))


def test_programs_are_those_beside_the_interpreter(write: Write) -> None:
    log = io.StringIO()
    with Supervisor(write(web="import sys; print(sys.executable)"), env={"PATH": "/nowhere"}, output=log):
        wait_until(said(log, f"| {Path(sys.executable).parent}/python"))


def test_a_process_that_died_is_started_again_later_each_time(write: Write) -> None:
    log = io.StringIO()
    with Supervisor(write(web="raise SystemExit(3)"), output=log):
        wait_until(said(log, "next start in 1 s"))
    assert "web.1 ended with code 3" in log.getvalue()
    assert log.getvalue().index("next start in 0.5 s") < log.getvalue().index("next start in 1 s")


def test_a_process_that_was_killed_is_started_again(write: Write) -> None:
    log = io.StringIO()
    with Supervisor(write(web=POLITE), output=log) as stack:
        first = running(stack, "web")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: stack.pid("web") not in (None, first))
    assert "web.1 was killed by SIGKILL" in log.getvalue()


def test_the_wait_doubles_up_to_half_a_minute_and_begins_anew_after_a_steady_minute() -> None:
    backoff = Backoff()
    assert [backoff.delay_after(1.0) for _ in range(9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert backoff.delay_after(60.0) == 0.5
    assert backoff.delay_after(1.0) == 1.0


def test_a_tier_starts_when_the_one_before_is_ready_and_ends_before_it(write: Write, tmp_path: Path) -> None:
    ready_when_asked_again = iter([False, False, True, True, True])
    running_when_asked: list[int | None] = []

    def is_ready(_environment: object) -> bool:
        running_when_asked.append(stack.pid("worker"))
        return next(ready_when_asked_again)

    roles = {"valkey": Role(tier=0, is_ready=is_ready), "worker": Role(tier=1), "web": Role(tier=2)}
    log = io.StringIO()
    stack = Supervisor(write(web=POLITE, worker=POLITE, valkey=POLITE), output=log, roles=roles)
    with stack:
        assert running_when_asked[:3] == [None, None, None]
        stack.wait_until_ready()
        wait_until(lambda: log.getvalue().count("| here") == 3)
    assert (tmp_path / "ended").read_text().split() == ["web.1", "worker.1", "valkey.1"]


def test_what_does_not_become_ready_is_named_and_the_rest_not_started(write: Write) -> None:
    stack = Supervisor(write(web=POLITE), roles={"web": Role(is_ready=lambda _: False)})
    with stack, pytest.raises(NotReady, match=r"web\.1"):
        stack.wait_until_ready(0.2)


def test_what_ignores_sigterm_is_killed_with_its_children(write: Write, tmp_path: Path) -> None:
    log = io.StringIO()
    with Supervisor(write(web=STUBBORN), output=log, roles={"web": Role(grace_seconds=0.3)}) as stack:
        child = child_of(tmp_path)
        leader = running(stack, "web")
    assert "did not end within 0.3 s" in log.getvalue()
    assert is_gone(leader)
    wait_until(lambda: is_gone(child))


def test_children_that_outlive_their_process_are_ended_with_it(write: Write, tmp_path: Path) -> None:
    with Supervisor(write(web=CARELESS)):
        child = child_of(tmp_path)
        wait_until(lambda: is_gone(child))


def test_one_name_is_stopped_started_and_started_anew(write: Write) -> None:
    with Supervisor(write(web=POLITE, worker=POLITE), counts={"worker": 2}) as stack:
        web, second = running(stack, "web"), running(stack, "worker.2")
        stack.stop("worker.1")
        assert stack.pid("worker.1") is None
        assert (stack.pid("web"), stack.pid("worker.2")) == (web, second)
        stack.start("worker.1")
        running(stack, "worker.1")
        stack.restart("worker")
        assert running(stack, "worker.2") != second
        assert stack.pid("web") == web
        with pytest.raises(KeyError, match=r"worker\.1, worker\.2"):
            stack.pid("worker")
        with pytest.raises(KeyError, match="no process 'nothing'"):
            stack.stop("nothing")


def test_a_name_that_the_procfile_lacks_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="Procfile has no worker; it has web"):
        Supervisor(write(web=POLITE), processes=["web", "worker"])


def test_a_reader_of_the_log_that_went_away_stops_nothing(write: Write, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    talker = "import pathlib\nfor n in range(20000): print(n)\npathlib.Path('said').touch()\ninput()"
    with pytest.raises(BrokenPipeError), os.fdopen(writer, "w") as log, Supervisor(write(web=talker), output=log):
        wait_until((tmp_path / "said").exists)


Run = Callable[..., "Foreground"]


class Foreground:
    """A supervisor in a process of its own, and what it has said."""

    def __init__(self, procfile: Path, grace_seconds: float, ready: str) -> None:
        command = [sys.executable, "-u", "-c", FOREGROUND, str(procfile), str(grace_seconds), ready]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []

    def read_until(self, text: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} never came in {''.join(self.lines)}")

    def started(self, name: str) -> int:
        return int(self.read_until(f"{name} started, process").split()[-1])

    def end(self) -> int:
        self.lines += self.process.communicate(timeout=20)[0].splitlines(keepends=True)
        return self.process.returncode


@pytest.fixture
def run(write: Write) -> Generator[Run, None, None]:
    """Return a function that runs a supervisor in the foreground of its own process, with one entry, "web"."""
    made: list[Foreground] = []

    def run(program: str, grace_seconds: float = 10, ready: str = "at once") -> Foreground:
        made.append(Foreground(write(web=program), grace_seconds, ready))
        return made[-1]

    yield run
    for one in made:
        one.process.kill()  # its warden ends the rest
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_foreground_in_order(run: Run, tmp_path: Path, number: int) -> None:
    foreground = run(POLITE)
    pid = foreground.started("web.1")
    foreground.read_until("| here")
    foreground.process.send_signal(number)
    assert foreground.end() == 0
    assert (tmp_path / "ended").read_text() == "web.1\n"
    assert is_gone(pid)


def test_a_second_signal_hurries(run: Run, tmp_path: Path) -> None:
    foreground = run(STUBBORN, grace_seconds=3600)
    pid = foreground.started("web.1")
    child = child_of(tmp_path)
    foreground.process.send_signal(signal.SIGINT)
    foreground.read_until("ending")
    foreground.process.send_signal(signal.SIGINT)
    assert foreground.end() == 0
    assert is_gone(pid)
    wait_until(lambda: is_gone(child))


@pytest.mark.parametrize("_", range(5))
def test_a_signal_at_any_moment_of_the_start_ends_what_was_started(run: Run, _: int) -> None:
    foreground = run("import time\ntime.sleep(3600)")
    pid = foreground.started("web.1")
    foreground.process.send_signal(signal.SIGTERM)
    assert foreground.end() == 0
    assert is_gone(pid)


def test_what_never_gets_ready_ends_the_foreground_with_a_failure(run: Run) -> None:
    foreground = run("import time\ntime.sleep(3600)", ready="never")
    pid = foreground.started("web.1")
    assert foreground.end() == 1
    assert "not ready after 0.2 s: web.1" in "".join(foreground.lines)
    assert is_gone(pid)


@pytest.mark.parametrize("program", [POLITE, FAMILY])
def test_a_supervisor_that_is_killed_leaves_nothing(run: Run, tmp_path: Path, program: str) -> None:
    foreground = run(program)
    pids = [foreground.started("web.1")]
    if program is FAMILY:
        pids.append(child_of(tmp_path))
    foreground.process.kill()
    foreground.end()
    for pid in pids:
        wait_until(partial(is_gone, pid), timeout_seconds=8, describe=f"process {pid} to end")
