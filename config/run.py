"""`python -m config.run`, behind `make run`: prepares what is missing, then serves until Ctrl-C.

It composes the environment that all processes get, so it is, besides the settings, the one place that reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

from config import secret_key, valkey
from config.ports import free_port, is_free
from config.prepare import TOKEN_FILE, FirstUser
from config.supervisor import Supervisor
from config.supervisor.foreground import serve

ROOT = Path(__file__).resolve().parent.parent
USUAL_PORT = 8000
LOCK_FILE = "run.lock"


class CannotRun(Exception):
    """Something is in the way; the text says what to do."""


def main() -> int:
    """Serve until told to end, and return the exit code."""
    data = Path(os.environ.get("KABAR_DATA") or ROOT / "var").resolve()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone_in(data):
            return _run(data)
    except (CannotRun, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(data: Path) -> int:
    env = environment(os.environ, data)
    processes = ["web", "worker", "webhooks", "sweeper"]
    if not env.get("SECRET_KEY"):
        secret_key.load_or_make(data / "secret_key")
    if not env.get("REDIS_URL"):
        env["REDIS_URL"] = valkey.embedded_url(data)
        processes.append("valkey")
    try:
        first_user = prepare(env)
        supervisor = Supervisor(ROOT / "Procfile", env=env, processes=processes, output=sys.stdout)
        return serve(supervisor, lambda: _welcome(supervisor, env, first_user))
    finally:
        if "valkey" in processes:
            valkey.forget_url(data)


def environment(given: Mapping[str, str], data: Path) -> dict[str, str]:
    """Return the environment of all processes: what was given, with the data folder, the host and the port set.

    Raises:
        CannotRun: the wished port is taken or can't be had.
    """
    host = given.get("HOST") or "127.0.0.1"
    wish = given.get("PORT")
    if wish and not (wish.isdecimal() and 0 < int(wish) < 65536):
        raise CannotRun(f"PORT is {wish!r}. It must be a number from 1 to 65535, or unset.")
    port = int(wish or USUAL_PORT)
    try:
        if not is_free(host, port):
            if wish:
                raise CannotRun(f"Port {port} is taken. Name another one in PORT, or leave it unset.")
            port = free_port(host)
            print(f"Port {USUAL_PORT} is taken; this is {port}.", flush=True)
    except OSError as error:
        raise CannotRun(f"Can't listen on HOST {host}, PORT {port}: {error}.") from error
    return {**given, "KABAR_DATA": str(data), "HOST": host, "PORT": str(port)}


def prepare(env: Mapping[str, str]) -> FirstUser | None:
    """Bring the database up to date and make the first user where there is none.

    Raises:
        CannotRun: the settings or the database are wrong; the process has written why to stderr.
    """
    command = [sys.executable, "-m", "config.prepare"]
    result = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise CannotRun("Kabar can't start: the lines above say why.")
    told = json.loads(result.stdout.splitlines()[-1])
    return None if told is None else FirstUser(**told)


@contextlib.contextmanager
def alone_in(data: Path) -> Generator[None, None, None]:
    """Hold the data folder against a second `make run`.

    Raises:
        CannotRun: another one has it.
    """
    with (data / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CannotRun(
                f"Kabar runs on {data} already, process {lock.read().strip()}. KABAR_DATA names another folder."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _welcome(supervisor: Supervisor, env: Mapping[str, str], first_user: FirstUser | None) -> None:
    host = f"[{env['HOST']}]" if ":" in env["HOST"] else env["HOST"]
    url = env.get("PUBLIC_URL") or f"http://{host}:{env['PORT']}"
    supervisor.say(f"Kabar serves at {url.rstrip('/')}/ until Ctrl-C.")
    if first_user is not None:
        token_file = Path(env["KABAR_DATA"]) / TOKEN_FILE
        supervisor.say(f"user      {first_user.name}")
        supervisor.say(f"password  {first_user.password}")
        supervisor.say(f"token     {first_user.token}")
        supervisor.say(f"These are shown once. The token is kept in {token_file}.")


if __name__ == "__main__":
    sys.exit(main())
