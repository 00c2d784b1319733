"""What is asked of daphne's and Twisted's private surface holds: an upgrade that breaks it fails here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from config.ports import free_port
from tests.config.plain_app import PART, PARTS
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the plain application in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "tests.config.plain_app"]
    data = str(tmp_path_factory.mktemp("data"))
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "KABAR_DATA": data, "PORT": str(port)})
    try:
        wait_until(lambda: can_connect(port), 30, "the server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_application_waits_for_a_client_that_reads_slowly(url: str) -> None:
    with requests.get(f"{url}/many", stream=True, timeout=20) as response:
        taken = response.raw.read(1_000_000)
        seen = -1

        def stands_still() -> bool:
            nonlocal seen
            before, seen = seen, requests.get(f"{url}/sent", timeout=20).json()
            return bool(before == seen)

        wait_until(stands_still, 20)
        assert 0 < seen < PARTS // 4  # the rest isn't waiting in memory
        rest = len(response.raw.read())
    assert len(taken) + rest == len(PART) * PARTS


def test_an_application_goes_on_when_such_a_client_leaves(url: str) -> None:
    with requests.get(f"{url}/many", stream=True, timeout=20) as response:
        response.raw.read(1000)
    wait_until(lambda: bool(requests.get(f"{url}/sent", timeout=20).json() == PARTS), 20)


@pytest.mark.parametrize("size", [0, 1000, 65536, 131072, 900_000])
def test_a_body_comes_whole_and_in_parts(url: str, size: int) -> None:
    taken = requests.post(f"{url}/take", data=bytes(size), timeout=20).json()
    assert taken["bytes"] == size
    assert taken["largest"] <= 65536


def test_requests_that_are_over_are_forgotten_at_once(url: str) -> None:
    with requests.Session() as session:
        for _ in range(100):
            session.get(f"{url}/take", timeout=20)
        assert session.get(f"{url}/requests", timeout=20).json() < 10


def test_an_application_that_fails_is_answered_for(url: str) -> None:
    assert requests.get(f"{url}/fail", timeout=20).status_code == 500


def test_an_answer_that_fails_amid_is_broken_off_and_others_are_answered_for_afterwards(url: str) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{url}/fail-amid", timeout=20)
    assert requests.get(f"{url}/fail", timeout=20).status_code == 500
