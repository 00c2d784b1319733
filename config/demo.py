"""`python -m config.demo`, behind `make demo`: one real job through all four doors, with what each door received.

It starts everything on free ports with a data folder of its own, and acts as four clients from outside. The exit code
is 0 only if every door told the same story, event by event.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from standardwebhooks import Webhook
from websockets.sync.client import ClientConnection, connect

from config import secret_key, valkey
from config.ports import free_port
from config.run import ROOT, CannotRun, prepare
from config.supervisor import NotReady, Supervisor

SAMPLE = ROOT / "jobs" / "builtin" / "sample" / "birdstrikes.csv"
COPIES = 40
"""The sample's rows are read so often that there is something to watch."""
LOOPBACK = "127.0.0.1"
DOOR_SECONDS = 90.0
"""How long a door may take to tell the end."""
ALL_EVENTS = ["job.accepted", "job.started", "job.log", "job.retrying", "job.completed", "job.failed", "job.cancelled"]
FINAL_EVENTS = ("job.completed", "job.failed", "job.cancelled")

Envelope = dict[str, Any]


@dataclass(kw_only=True)
class Door:
    """One way by which news came."""

    name: str
    envelopes: list[Envelope] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    fault: str = ""
    is_done: threading.Event = field(default_factory=threading.Event)

    def take(self, envelope: Envelope) -> None:
        """Keep an event of the log, or note progress, which is no event."""
        if envelope["type"] == "job.progress":
            self.progress.append(envelope["data"]["progress"]["percent"])
            return
        self.envelopes.append(envelope)
        if envelope["type"] in FINAL_EVENTS:
            self.is_done.set()

    @property
    def story(self) -> list[Envelope]:
        """What was told, in order, but for what is said anew at each reading: estimates and signatures of URLs."""
        return [without_signatures(each) for each in sorted(self.envelopes, key=lambda each: each["sequence"])]


@dataclass(frozen=True, kw_only=True)
class Kabar:
    """The running service, as a client sees it."""

    url: str
    token: str

    def get(self, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return requests.get(self.url + path, headers=headers, timeout=DOOR_SECONDS, **options)

    def submit(self, file: Path, callback_url: str) -> dict[str, Any]:
        """Start a report of a file and give the receipt."""
        job = {"kind": "csv.report", "params": {}, "callbackUrl": callback_url, "callbackEvents": ALL_EVENTS}
        with file.open("rb") as content:
            response = requests.post(
                f"{self.url}/api/jobs",
                headers={"Authorization": f"Bearer {self.token}"},
                data={"job": json.dumps(job)},
                files={"file": (file.name, content, "text/csv")},
                timeout=DOOR_SECONDS,
            )
        if response.status_code != requests.codes.accepted:
            raise CannotRun(f"The job was not accepted: {response.status_code} {response.text}")
        receipt: dict[str, Any] = response.json()
        return receipt


def main() -> int:
    """Run the demo and give the exit code."""
    data = Path(os.environ.get("KABAR_DATA") or ROOT / "var") / "demo"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, mode=0o700)
    begun = time.monotonic()
    try:
        with serving(data) as kabar:
            say(f"Kabar serves at {kabar.url} (ready after {time.monotonic() - begun:.1f} s)")
            is_agreed = run_one_job(kabar, data)
    except (CannotRun, NotReady, OSError, requests.RequestException) as error:
        print(f"The demo failed: {error}\nThe log is {data / 'log.txt'}.", file=sys.stderr)
        return 1
    say(f"\nDone in {time.monotonic() - begun:.1f} s." if is_agreed else "\nThe doors do not agree.")
    return 0 if is_agreed else 1


@contextmanager
def serving(data: Path) -> Iterator[Kabar]:
    """Start everything, and end it."""
    port = free_port()
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    env |= {
        "KABAR_DATA": str(data),
        "HOST": LOOPBACK,
        "PORT": str(port),
        "KABAR_WEBHOOK_ALLOW_HOSTS": LOOPBACK,
        "REDIS_URL": valkey.embedded_url(data),
    }
    secret_key.load_or_make(data / "secret_key")
    first_user = prepare(env)
    if first_user is None:
        raise CannotRun("The demo's database was not empty.")
    with (data / "log.txt").open("w") as output, Supervisor(ROOT / "Procfile", env=env, output=output) as supervisor:
        kabar = Kabar(url=f"http://{LOOPBACK}:{port}", token=first_user.token)
        wait_for(lambda: is_ready(kabar), "the service")
        supervisor.wait_until_ready()
        yield kabar


def run_one_job(kabar: Kabar, data: Path) -> bool:
    """Start one job with a client at each door, and tell what they received; True if all agree."""
    file = data / "birdstrikes.csv"
    rows = write_sample(file)
    polls, webhook, socket, stream = (Door(name=name) for name in ("polling", "webhook", "WebSocket", "events"))
    secret = kabar.get("/api/callback-secret").json()["secret"]
    with receiving(webhook, secret) as callback_url, socket_open(kabar) as connection:
        receipt = kabar.submit(file, callback_url)
        job_id = receipt["jobId"]
        say(f"Submitted {file.name}, {rows:,} rows, {file.stat().st_size / 1e6:.0f} MB: 202, job {job_id}\n")
        followers = [
            threading.Thread(target=follow, args=(socket, lambda: listen(connection, socket, job_id)), daemon=True),
            threading.Thread(target=follow, args=(stream, lambda: read_stream(kabar, stream, job_id)), daemon=True),
        ]
        for each in followers:
            each.start()
        job = poll(kabar, polls, job_id)
        for door in (webhook, socket, stream):
            if not door.is_done.wait(DOOR_SECONDS) and not door.fault:
                door.fault = f"did not tell the end within {DOOR_SECONDS:.0f} s"
    doors = [polls, webhook, socket, stream]
    tell(doors)
    report = fetch_report(job, data) if job["status"] == "COMPLETED" else None
    if report:
        say(f"\nThe report, {report.stat().st_size:,} bytes, was fetched by its signed URL to\n  {report}")
    return report is not None and all(not door.fault and door.story == polls.story for door in doors)


# --- The four clients -------------------------------------------------------------------------------------------------


def poll(kabar: Kabar, door: Door, job_id: str) -> dict[str, Any]:
    """Poll the status until the job is done, then read the log; the wait makes each poll an answer worth having."""
    etag, job, end = "", {"done": False}, time.monotonic() + DOOR_SECONDS
    while not job["done"] and time.monotonic() < end:
        headers = {"If-None-Match": etag} if etag else {}
        response = kabar.get(f"/api/jobs/status/{job_id}?wait=2", headers=headers)
        if response.status_code == requests.codes.not_modified:
            continue
        response.raise_for_status()
        etag, job = response.headers["ETag"], response.json()
        progress = job["progress"] or {"percent": 0.0, "message": ""}
        say(f"  GET …/status/…  {job['status']:<9} {progress['percent']:5.1f} %  {progress['message'] or ''}")
        door.progress.append(progress["percent"])
    for envelope in kabar.get(f"/api/jobs/{job_id}/events").json()["events"]:
        door.take(envelope)
    if not door.is_done.is_set():
        door.fault = "the job did not end"
    return job


@contextmanager
def receiving(door: Door, secret: str) -> Iterator[str]:
    """Run a webhook receiver that believes nothing without a good signature; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                envelope = Webhook(secret).verify(body, dict(self.headers.items()))
            except Exception as error:
                door.fault = f"a signature that does not verify ({error})"
                self.send_error(400)
                return
            if envelope["sequence"] not in {each["sequence"] for each in door.envelopes}:
                door.take(envelope)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/news"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def socket_open(kabar: Kabar) -> Iterator[ClientConnection]:
    """Open the WebSocket before there is any job, and watch all of one's own."""
    headers = {"Authorization": f"Bearer {kabar.token}"}
    with connect(kabar.url.replace("http", "ws") + "/ws/jobs", additional_headers=headers, proxy=None) as connection:
        connection.send(json.dumps({"type": "subscribe"}))
        if json.loads(connection.recv(timeout=DOOR_SECONDS))["type"] != "subscribed":
            raise CannotRun("The WebSocket did not subscribe.")
        yield connection


def listen(connection: ClientConnection, door: Door, job_id: str) -> None:
    """Take a job's messages until the final one."""
    while not door.is_done.is_set():
        message = json.loads(connection.recv(timeout=DOOR_SECONDS))
        if message["type"] == "event" and message["event"]["data"]["jobId"] == job_id:
            door.take(message["event"])


def read_stream(kabar: Kabar, door: Door, job_id: str) -> None:
    """Read a job's server-sent events until the server ends the stream."""
    headers = {"Accept": "text/event-stream"}
    with kabar.get(f"/api/jobs/{job_id}/events", headers=headers, stream=True) as response:
        response.raise_for_status()
        for line in response.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                door.take(json.loads(line.removeprefix("data: ")))


def follow(door: Door, read: Callable[[], None]) -> None:
    """Run a client in its thread; what goes wrong there is the door's fault."""
    try:
        read()
    except Exception as error:
        door.fault = f"{type(error).__name__}: {error}"
        door.is_done.set()


# --- Around them ------------------------------------------------------------------------------------------------------


def tell(doors: list[Door]) -> None:
    """Print what each door received, beside the first."""
    say(f"\n  {'event':<18}" + "".join(f"{door.name:>12}" for door in doors))
    for place, envelope in enumerate(doors[0].story):
        cells = "".join(f"{'✓' if door.story[place : place + 1] == [envelope] else '✗':>12}" for door in doors)
        say(f"  {envelope['sequence']:>2} {envelope['type']:<15}{cells}")
    say(f"     {'progress':<15}" + "".join(f"{as_count(door):>12}" for door in doors))
    for door in doors:
        if door.fault:
            say(f"  {door.name}: {door.fault}")


def as_count(door: Door) -> str:
    """Say how often a door told of progress; webhooks never do."""
    return f"{len(door.progress)} times" if door.progress else "-"


def fetch_report(job: dict[str, Any], data: Path) -> Path:
    """Fetch the main artifact by its signed URL, which needs no other credential."""
    response = requests.get(job["resultUrl"], timeout=DOOR_SECONDS)
    response.raise_for_status()
    report = data / "report.html"
    report.write_bytes(response.content)
    return report


def write_sample(file: Path) -> int:
    """Write the sample's rows many times over; gives their number."""
    header, _, rows = SAMPLE.read_bytes().rstrip(b"\n").partition(b"\n")
    rows += b"\n"
    with file.open("wb") as output:
        output.write(header + b"\n")
        for _ in range(COPIES):
            output.write(rows)
    return rows.count(b"\n") * COPIES


def without_signatures(value: Any) -> Any:
    """Leave out what is made anew at each reading."""
    match value:
        case dict():
            return {name: without_signatures(inner) for name, inner in value.items() if name != "estimatedFinishAt"}
        case list():
            return [without_signatures(inner) for inner in value]
        case str() if "signature=" in value:
            return urlsplit(value)._replace(query="").geturl()
        case _:
            return value


def is_ready(kabar: Kabar) -> bool:
    """Tell whether the service and its workers are there."""
    try:
        return requests.get(f"{kabar.url}/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds.

    Raises:
        NotReady: the time passed first.
    """
    end = time.monotonic() + DOOR_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise NotReady(f"{what} was not ready after {DOOR_SECONDS:.0f} s")
        time.sleep(0.1)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
