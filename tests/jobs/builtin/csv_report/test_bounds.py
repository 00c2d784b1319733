"""What is no table, or too much of one, gets a sentence that a person understands, and never the memory."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zipfile

import pytest

from jobs.builtin.csv_report.profiler import Stage, profile_csv
from jobs.builtin.csv_report.report import render_report
from jobs.builtin.csv_report.rows import MAX_CELL_CHARS, MAX_ROW_CHARS
from jobs.builtin.csv_report.unreadable import UnreadableCsvError


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x")
    return out.getvalue()


def refusal(content: bytes, *, encoding: str | None = None) -> UnreadableCsvError:
    with pytest.raises(UnreadableCsvError) as caught:
        profile_csv(io.BytesIO(content), encoding=encoding)
    return caught.value


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "empty_file", "no bytes"),
        (b"\n\n\r\n", "empty_file", "blank lines"),
        (b"\xef\xbb\xbf", "empty_file", "no rows"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not_a_csv_file", "PNG image"),
        (b"%PDF-1.7\n", "not_a_csv_file", "PDF"),
        (gzip.compress(b"a,b\n"), "not_a_csv_file", "gzip"),
        (zipped("xl/workbook.xml"), "not_a_csv_file", "save the sheet as CSV"),
        (zipped("a.csv"), "not_a_csv_file", "unpack"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "not_a_csv_file", "web page"),
        (random.Random(1).randbytes(20_000).replace(b"\0", b"\1"), "not_a_csv_file", "not those of a text"),
        (b"a,b\n1,2\n3,\0\n", "nul_bytes", "position 10"),
        (b"a,b\n" + b"1,2\n" * 400_000 + b"3,\0\n", "nul_bytes", "position 1,600,006"),
        (b"a,b\n1," + b"x" * (MAX_CELL_CHARS + 1) + b"\n", "cell_too_large", "1,000,000 characters"),
        (b'a,b\n1,"never closed\n' + b"1,2\n" * 300_000, "cell_too_large", "never closed"),
        (b"a,b\n1," + b"x" * (MAX_ROW_CHARS + 1) + b"\n", "cell_too_large", "1,000,000 characters"),
        (b"a,b\n1" + b",xxxxxxx" * (MAX_ROW_CHARS // 8) + b"\n", "row_too_large", "16,000,000 characters"),
        (b"x," * 5_000 + b"x\n1,2\n", "too_many_columns", "5,001 columns; the limit is 5,000"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_a_bad_file_is_refused_in_words(content: bytes, code: str, words: str) -> None:
    error = refusal(content)
    assert error.code == code
    assert words in error.message


def test_a_wrong_encoding_is_told_with_its_place() -> None:
    error = refusal("a,b\nx,y\nprénom,3\n".encode("cp1252"), encoding="utf-8")
    assert error.code == "wrong_encoding"
    assert "byte 0xE9 at position 10 (line 3)" in error.message
    assert refusal("a,b\n".encode("utf-16")[:-1], encoding="utf-16").code == "wrong_encoding"


class EndlessCell(io.RawIOBase):
    """A file of one cell, made as it is read."""

    SIZE = 200_000_000

    def __init__(self) -> None:
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (self.SIZE if whence == 2 else 0)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        size = max(0, min(size, self.SIZE - self._at))
        self._at += size
        return b"x" * size


def test_a_cell_of_200_mb_is_refused_without_being_held() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableCsvError, match="A cell is longer"):
            profile_csv(EndlessCell())  # type: ignore[arg-type] # BinaryIO is an io.RawIOBase by its methods
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_a_long_file_of_keys_is_profiled_in_little_memory() -> None:
    chance = random.Random(3)
    content = b"a,b,c\n" + b"".join(b"%d,%.12f,k%x\n" % (index, chance.random(), index) for index in range(70_000))
    tracemalloc.start()
    try:
        found = profile_csv(io.BytesIO(content))
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()
    assert [round(column.distinct, -4) for column in found.columns] == [70_000] * 3


def test_two_thousand_columns_make_a_bounded_report() -> None:
    names = ",".join(f"measure {index}" for index in range(2000))
    row = ",".join(str(index % 17) for index in range(2000))
    found = profile_csv(io.BytesIO(f"{names}\n{(row + chr(10)) * 40}".encode()))
    page = render_report(found, "wide.csv")
    assert len(found.columns) == 2000
    assert page.count('<section class="column"') == 60
    assert "the other 1,940 are told in this table only" in page
    assert len(page) < 3_000_000


def test_progress_is_by_bytes_and_ends_at_the_size_of_the_file() -> None:
    content = b"a,b\n" + b"1,2\n" * 100_000
    seen: list[tuple[Stage, int]] = []
    profile_csv(io.BytesIO(content), on_progress=lambda stage, done: seen.append((stage, done)))
    read = [done for stage, done in seen if stage is Stage.READING]
    assert len(read) > 5
    assert read == sorted(read)
    assert read[-1] == len(content)
    assert seen[0][0] is Stage.CHECKING


def test_the_caller_ends_the_reading_by_raising() -> None:
    def stop(stage: Stage, done: int) -> None:
        if stage is Stage.READING:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_csv(io.BytesIO(b"a\n1\n"), on_progress=stop)
