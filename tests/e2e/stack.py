"""The real thing for outside tests: web, workers, webhook worker, sweeper and Valkey as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from config.ports import free_port
from config.supervisor import Supervisor
from config.valkey import embedded_url
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"
STARTUP_SECONDS = 60.0


@dataclass(kw_only=True)
class Stack:
    """A running Kabar."""

    url: str
    data: Path
    env: Mapping[str, str]
    supervisor: Supervisor
    _tokens: dict[str, str] = field(default_factory=dict)

    def manage(self, *arguments: str) -> str:
        """Run a management command and give what it printed."""
        return manage(self.env, *arguments)

    def token(self, username: str = "admin") -> str:
        """Give a user's token; makes the user, who is no staff unless it is admin."""
        if username not in self._tokens:
            self.manage(
                "shell",
                "-c",
                "from django.contrib.auth import get_user_model as users\n"
                f"user, _ = users().objects.get_or_create(username={username!r},"
                f" defaults=dict(is_staff={username == 'admin'}, is_superuser={username == 'admin'}))\n"
                f"user.set_password({PASSWORD!r}); user.save()",
            )
            self._tokens[username] = self.manage("create_token", username).strip().splitlines()[-1]
        return self._tokens[username]

    def client(self, username: str = "admin") -> Client:
        """Give an HTTP client that carries a user's token."""
        return Client(self.url, self.token(username))


class Client:
    """A caller of the API."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=70, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.post(self.url + path, json=body, timeout=70, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        return self.session.delete(self.url + path, timeout=70, **options)

    def submit(self, kind: str = "demo.countdown", params: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """Submit a job and give its id."""
        response = self.post("/api/jobs", {"kind": kind, "params": params or {}, **fields})
        assert response.status_code == 202, response.text
        job_id: str = response.json()["jobId"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """Read a job."""
        response = self.get(f"/api/jobs/{job_id}")
        assert response.status_code == 200, response.text
        shown: dict[str, Any] = response.json()
        return shown

    def finished(self, job_id: str, timeout_seconds: float = 30.0) -> dict[str, Any]:
        """Wait until a job is done and give it."""
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end:
            shown: dict[str, Any] = self.get(f"/api/jobs/{job_id}?wait=5").json()
            if shown["done"]:
                return shown
        raise AssertionError(f"not done after {timeout_seconds} s: {shown}")


def manage(env: Mapping[str, str], *arguments: str) -> str:
    """Run a management command with an environment."""
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    run = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def environment(data: Path, database_url: str, **more: str) -> dict[str, str]:
    """Make the environment of a stack with a data folder and a free port of its own."""
    port = free_port()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "KABAR_DATA": str(data),
        "DATABASE_URL": database_url,
        "REDIS_URL": embedded_url(data),
        "PORT": str(port),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "KABAR_WEBHOOK_ALLOW_HOSTS": "127.0.0.1",
        **more,
    }


@contextmanager
def running_stack(
    data: Path, database_url: str, *, counts: Mapping[str, int] | None = None, **more: str
) -> Iterator[Stack]:
    """Start everything on an empty database, and end it."""
    env = environment(data, database_url, **more)
    manage(env, "migrate", "--verbosity", "0")
    with (data / "log.txt").open("w") as output:
        supervisor = Supervisor(ROOT / "Procfile", env=env, counts=counts or {}, output=output)
        try:
            supervisor.start()
            url = env["PUBLIC_URL"]
            wait_until(lambda: is_ready(url), STARTUP_SECONDS, f"the stack whose log is {data}/log.txt")
            yield Stack(url=url, data=data, env=env, supervisor=supervisor)
        finally:
            supervisor.stop_all()


def is_ready(url: str) -> bool:
    """Tell whether a stack serves and its workers are seen."""
    try:
        return requests.get(f"{url}/readyz", timeout=2).status_code == 200
    except requests.RequestException:
        return False
