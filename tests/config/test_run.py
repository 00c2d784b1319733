"""`make run`: what it decides before anything is started, and a first and a second start of the whole."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import requests
from django.contrib.auth import get_user_model

from config import run
from config.ports import free_port, is_free
from config.prepare import make_first_user
from tests.servers import ROOT


@pytest.fixture
def taken_port() -> Generator[int, None, None]:
    """Return a port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_is_free_until_somebody_listens_on_it(taken_port: int) -> None:
    assert is_free("127.0.0.1", free_port())
    assert not is_free("127.0.0.1", taken_port)


def test_the_environment_names_the_folder_the_host_and_the_port(tmp_path: Path) -> None:
    port = str(free_port())
    env = run.environment({"PORT": port, "OTHER": "kept"}, tmp_path)
    assert env == {"PORT": port, "OTHER": "kept", "HOST": "127.0.0.1", "KABAR_DATA": str(tmp_path)}


def test_a_port_that_was_wished_for_and_is_taken_is_told(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(run.CannotRun, match=f"Port {taken_port} is taken"):
        run.environment({"PORT": str(taken_port)}, tmp_path)


def test_another_port_serves_where_the_usual_one_is_taken(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "USUAL_PORT", taken_port)
    env = run.environment({}, tmp_path)
    assert int(env["PORT"]) != taken_port
    assert f"Port {taken_port} is taken; this is {env['PORT']}." in capsys.readouterr().out


@pytest.mark.parametrize("port", ["http", "0", "-1", "70000"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    with pytest.raises(run.CannotRun, match="from 1 to 65535"):
        run.environment({"PORT": port}, tmp_path)


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    with pytest.raises(run.CannotRun, match=r"Can't listen on HOST 192\.0\.2\.1"):
        run.environment({"HOST": "192.0.2.1"}, tmp_path)


def test_a_second_run_on_the_same_folder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with run.alone_in(tmp_path), pytest.raises(run.CannotRun, match=f"process {os.getpid()}"), run.alone_in(tmp_path):
        pass
    with run.alone_in(tmp_path):
        pass


@pytest.mark.django_db
def test_the_first_user_is_made_once_and_its_token_kept_for_its_owner(tmp_path: Path) -> None:
    first = make_first_user(tmp_path)
    assert first is not None
    user = get_user_model().objects.get()
    assert user.is_superuser
    assert user.check_password(first.password)
    kept = tmp_path / "token"
    assert kept.read_text() == first.token + "\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert make_first_user(tmp_path) is None


@pytest.mark.django_db
def test_a_user_whose_token_cannot_be_kept_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        make_first_user(tmp_path / "missing")
    assert not get_user_model().objects.exists()


class Running:
    """A `python -m config.run` on a data folder, as a user has it in a terminal."""

    def __init__(self, data: Path, port: int, **more: str) -> None:
        outside = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = {**outside, "KABAR_DATA": str(data), "PORT": str(port), **more}
        command = [sys.executable, "-m", "config.run"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        raise AssertionError(f"{text!r} never came in {self.said}")

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.said += self.process.communicate(timeout=40)[0]
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path) -> Generator[Callable[..., Running], None, None]:
    """Return a function that runs Kabar on one data folder."""
    made: list[Running] = []

    def start(port: int, **more: str) -> Running:
        made.append(Running(tmp_path / "var", port, **more))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


def test_the_first_start_shows_what_the_second_keeps_to_itself(start: Callable[..., Running], tmp_path: Path) -> None:
    port = free_port()
    first = start(port)
    first.read_until("shown once")
    token = (tmp_path / "var" / "token").read_text().strip()
    assert token in first.said
    answer = requests.get(
        f"http://127.0.0.1:{port}/api/kinds", headers={"Authorization": f"Bearer {token}"}, timeout=20
    )
    assert answer.status_code == 200
    assert (tmp_path / "var" / "valkey.url").exists()
    assert first.end() == 0
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700
    assert not (tmp_path / "var" / "valkey.url").exists()
    assert is_free("127.0.0.1", port)

    second = start(port)
    second.read_until(f"serves at http://127.0.0.1:{port}/")
    assert second.end() == 0
    assert "password" not in second.said
    assert token not in second.said


def test_settings_that_are_wrong_end_the_start_with_what_to_do(start: Callable[..., Running]) -> None:
    run = start(free_port(), HOST="0.0.0.0")  # noqa: S104 - it is to be refused
    run.process.wait(timeout=30)
    run.read_until("lines above say why")
    assert run.process.returncode == 1
    assert "must be set. Set it, or leave HOST at 127.0.0.1." in run.said
    assert "Traceback" not in run.said
