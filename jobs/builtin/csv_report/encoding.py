"""How the bytes of a file are text: byte-order marks, strict UTF-8, then a guess from its non-ASCII lines.

The whole file is decoded once before it is profiled. That costs about a second a gigabyte and makes the answer
certain: a letter at the very end can't contradict what the beginning promised.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .unreadable import UnreadableCsvError

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 128 << 10  # of non-ASCII lines, for the guess; more makes it slower, not better
MOSTLY_UTF8 = 0.9  # of the non-ASCII lines: then the file is UTF-8 with damage, not another encoding

# Longest first: the mark of UTF-32 LE begins with that of UTF-16 LE.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# The first bytes of files that are sent in place of a CSV, and what to call them.
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file; save the sheet as CSV first"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "a program"),
)
CONTROLS = bytes(code for code in range(1, 32) if code not in b"\t\n\v\f\r\x1b\x1c\x1d\x1e\x1f")
MOST_CONTROLS = 0.06  # of the bytes; random ones have 9%
ZIP = b"PK\x03\x04"
SPREADSHEET_PARTS = (b"[Content_Types].xml", b"xl/", b"mimetypeapplication/vnd.oasis")

# Encodings that CSV files are met in; the detector's other seventy make it guess worse on short samples.
CANDIDATES = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
LATIN = {"cp1252", "cp1250", "cp1254", "cp1257"}

LABELS = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8 with a byte-order mark",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 LE",
    "utf-16-be": "UTF-16 BE",
    "utf-32": "UTF-32",
    "iso8859-1": "ISO 8859-1",
    "latin-1": "ISO 8859-1",
    "koi8_r": "KOI8-R",
    "cp932": "Shift JIS",
    "euc_jp": "EUC-JP",
    "gb18030": "GB 18030",
    "big5": "Big5",
    "cp949": "EUC-KR",
}

# A sign beside a letter that no word has there: not ASCII, no letter or space, no quotation mark, dash or ellipsis.
_SIGN = r"[^\x00-\x7f\w\s\u2010-\u2026\xab\xbb]"
_LETTER = r"[^\W\d_]"
SIGN_IN_WORD = re.compile(rf"(?<={_LETTER}){_SIGN}|{_SIGN}(?={_LETTER})|[\xb9\xb2\xb3](?=[a-z])")

OnBytes = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The encoding that a file is read in."""

    codec: str  # a name that Python's codecs know
    guessed: bool = False  # by the look of the letters: certain in no case
    damage: str = ""  # where bytes don't fit and are read as U+FFFD; empty where all fit

    @property
    def label(self) -> str:
        """The name that people know it by."""
        if re.fullmatch(r"cp125\d", self.codec):
            return f"windows-{self.codec[2:]}"
        return LABELS.get(self.codec, self.codec)

    @property
    def errors(self) -> str:
        """The error handler to decode with."""
        return "replace" if self.damage else "strict"


@dataclass(frozen=True, kw_only=True)
class _Misfit:
    """The first byte that an encoding has no character for."""

    byte: int
    position: int  # bytes from the start of the file, from 0
    line: int

    def __str__(self) -> str:
        return f"byte 0x{self.byte:02X} at position {self.position:,} (line {self.line:,})"


def find_encoding(stream: BinaryIO, *, given: str | None, on_bytes: OnBytes) -> Encoding:
    """Decide how a file is to be decoded, having decoded the whole of it.

    Args:
        stream: seekable; left at an undefined position.
        given: the encoding that the user named, or None to find it.
        on_bytes: called with the number of bytes looked at, about once a megabyte.

    Raises:
        UnreadableCsvError: empty, not text, or not in the given encoding.
    """
    stream.seek(0)
    start = stream.read(CHUNK_BYTES)
    if not start:
        raise UnreadableCsvError("empty_file", "The file is empty: it has no bytes at all.")
    _refuse_other_formats(start)
    marked = next((codec for mark, codec in BYTE_ORDER_MARKS if start.startswith(mark)), None)
    if given:
        codec = codecs.lookup(given).name
        # The mark belongs to the encoding, not to the first cell.
        is_same = marked is not None and codec.split("-")[:2] == marked.split("-")[:2]
        return _check_given(stream, marked if marked and is_same else codec, on_bytes)
    if marked:
        return _check_given(stream, marked, on_bytes)
    if b"\0" in start:
        return _check_given(stream, _sixteen_bit_codec(start), on_bytes)
    misfit = _first_misfit(stream, "utf-8", on_bytes)
    if misfit is None:
        return Encoding(codec="utf-8")
    return _guess(stream, misfit, on_bytes)


def _refuse_other_formats(start: bytes) -> None:
    if start.startswith(ZIP):
        is_spreadsheet = any(part in start[:4096] for part in SPREADSHEET_PARTS)
        name = "a spreadsheet; save the sheet as CSV first" if is_spreadsheet else "a ZIP archive; unpack it first"
        raise UnreadableCsvError("not_a_csv_file", f"This is not a CSV file but {name}.")
    for signature, name in SIGNATURES:
        if start.startswith(signature):
            raise UnreadableCsvError("not_a_csv_file", f"This is not a CSV file but {name}.")
    if start[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UnreadableCsvError(
            "not_a_csv_file", "This is not a CSV file but a web page; perhaps a download asked for a sign-in."
        )
    controls = len(start) - len(start.translate(None, CONTROLS))
    if len(start) > 500 and controls > MOST_CONTROLS * len(start) and 0 not in start:
        raise UnreadableCsvError("not_a_csv_file", "This is not a CSV file: its bytes are not those of a text.")


def _sixteen_bit_codec(start: bytes) -> str:
    """Tell UTF-16 without a mark by its zero bytes, which stand in every second place of Latin text."""
    pairs = len(start) // 2 or 1
    even, odd = start[0::2].count(0) / pairs, start[1::2].count(0) / pairs
    if odd > 0.4 and even < 0.1:
        return "utf-16-le"
    if even > 0.4 and odd < 0.1:
        return "utf-16-be"
    raise UnreadableCsvError("nul_bytes", _NUL_MESSAGE.format(start.index(0)))


_NUL_MESSAGE = (
    "The file holds NUL bytes (the first at position {:,}), which no text has: it is a binary file, "
    "or it was damaged on its way. Export it as CSV again."
)


def _check_given(stream: BinaryIO, codec: str, on_bytes: OnBytes) -> Encoding:
    misfit = _first_misfit(stream, codec, on_bytes)
    if misfit is None:
        return Encoding(codec=codec)
    label = Encoding(codec=codec).label
    raise UnreadableCsvError(
        "wrong_encoding",
        f"The file can't be read as {label}: {misfit} doesn't belong to it. "
        "Name another encoding, or none, and it is found from the file.",
    )


def _chunks(stream: BinaryIO, on_bytes: OnBytes) -> Iterator[bytes]:
    stream.seek(0)
    done = 0
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        on_bytes(done)


def _first_misfit(stream: BinaryIO, codec: str, on_bytes: OnBytes) -> _Misfit | None:
    """Decode the whole stream strictly; memory stays at a chunk."""
    decoder = codecs.getincrementaldecoder(codec)("strict")
    before = lines = 0
    chunk = b""
    try:
        for chunk in _chunks(stream, on_bytes):
            text = decoder.decode(chunk)
            if "\0" in text:
                raise UnreadableCsvError("nul_bytes", _NUL_MESSAGE.format(before + max(chunk.find(0), 0)))
            before += len(chunk)
            lines += text.count("\n")
        chunk = b""
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # error.object is what was left of the chunk before, then this chunk.
        position = before + len(chunk) - len(error.object) + error.start
        line = lines + 1 + error.object[: error.start].count(b"\n")
        return _Misfit(byte=error.object[error.start], position=position, line=line)
    except UnicodeError as error:  # UTF-16 and UTF-32 say "truncated data" without a place
        raise UnreadableCsvError("wrong_encoding", f"The file can't be read as {codec}: {error}.") from error
    return None


def _guess(stream: BinaryIO, misfit: _Misfit, on_bytes: OnBytes) -> Encoding:
    lines = _non_ascii_lines(stream, on_bytes)
    if sum(map(_is_utf8, lines)) >= MOSTLY_UTF8 * len(lines):
        return Encoding(codec="utf-8", damage=str(misfit))
    codec = _likely_codec(b"\n".join(lines))
    found = _first_misfit(stream, codec, on_bytes)
    return Encoding(codec=codec, guessed=True, damage=str(found) if found else "")


def _non_ascii_lines(stream: BinaryIO, on_bytes: OnBytes) -> list[bytes]:
    """Collect up to SAMPLE_BYTES of the lines that tell encodings apart."""
    lines: list[bytes] = []
    size = 0
    for chunk in _chunks(stream, on_bytes):
        if chunk.isascii():
            continue
        for line in chunk.splitlines():
            if not line.isascii():
                lines.append(line[:4096])
                size += len(lines[-1])
                if size >= SAMPLE_BYTES:
                    return lines
    return lines


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _likely_codec(sample: bytes) -> str:
    from charset_normalizer import from_bytes  # here, as most files never need it

    best = from_bytes(sample, cp_isolation=CANDIDATES).best()
    if best is None:
        return "cp1252"
    if best.encoding not in LATIN:
        return best.encoding
    # The detector can't tell the Latin pages apart on names and addresses. The wrong page shows signs inside words
    # ("³ukasz" for "Łukasz"); where none does, the western page is by far the most common.
    return min(("cp1252", "cp1250", "cp1254", "cp1257"), key=lambda codec: _signs_in_words(sample, codec))


def _signs_in_words(sample: bytes, codec: str) -> int:
    return len(SIGN_IN_WORD.findall(sample.decode(codec, "replace")))
