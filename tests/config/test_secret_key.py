"""The secret key: made once, whole, and read by its owner alone."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config.secret_key import load_or_make

# Waits for a line, so that all processes are up before the first of them makes the key.
MAKE = "import sys, pathlib, config.secret_key as s; input(); print(s.load_or_make(pathlib.Path(sys.argv[1])))"


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    key = load_or_make(path)
    assert len(key) >= 50
    assert load_or_make(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_sixteen_processes_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(16)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert keys == {path.read_text().strip()}
    assert all(process.returncode == 0 for process in processes)
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_others_may_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    key = load_or_make(path)
    path.chmod(0o640)
    with pytest.warns(UserWarning, match="chmod 600"):
        assert load_or_make(path) == key


@pytest.mark.parametrize("content", ["", "short\n"])
def test_a_key_that_is_too_short_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret_key"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ImproperlyConfigured, match="Remove the file"):
        load_or_make(path)


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="set SECRET_KEY"):
        load_or_make(tmp_path / "missing" / "secret_key")
