"""How the text of a file is a table: the delimiter, the quotes, and whether the first row is a header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .delimiters import DELIMITER_NAMES, FOUND_DELIMITERS, NO_DELIMITER
from .readings import family_of

SAMPLE_ROWS = 300

# What a delimiter's score must beat for the file to have more than one column: little if the first row, mostly a
# header, has that delimiter; else the rest may be prose with commas.
SCORE_TO_BEAT = 0.1
SCORE_TO_BEAT_THE_FIRST_ROW = 0.4

DECIMAL_COMMA = re.compile(r"\s*[+-]?[\d.]*\d,\d+\s*")
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # written by Excel, read by Excel


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What `csv.reader` must know to cut rows into cells."""

    delimiter: str
    quote: str | None = '"'
    escape: str | None = None
    skip_lines: int = 0  # lines before the table: Excel's "sep=;"

    @property
    def label(self) -> str:
        """The delimiter in words."""
        if self.delimiter == NO_DELIMITER:
            return "none (one column)"
        return DELIMITER_NAMES.get(self.delimiter, self.delimiter)

    @property
    def reader_options(self) -> dict[str, Any]:  # Any: keyword arguments of csv.reader, each of its own type
        """The keyword arguments of `csv.reader`."""
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quote,
            "quoting": csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            "escapechar": self.escape,
            "doublequote": self.escape is None,
            # Values are stripped anyway; this also sees the quotes of `a, "b, c"`.
            "skipinitialspace": self.delimiter != " ",
        }


def find_dialect(sample: str, *, given: str | None, is_whole: bool) -> Dialect:
    """Find the delimiter and the quotes from the beginning of a file.

    Each candidate reads the sample; the best has rows of one width and no other delimiter left inside its cells.

    Args:
        sample: the decoded beginning of the file.
        given: the delimiter that the user named, or None to find it.
        is_whole: whether the sample is the whole file; else its last row may be cut and is left out.
    """
    separator = SEPARATOR_LINE.match(sample)
    skip_lines = 1 if separator else 0
    if separator:
        sample = sample[separator.end() :]
        given = given or separator.group(1)
    delimiters = (given,) if given else FOUND_DELIMITERS
    candidates = [
        Dialect(delimiter=delimiter, quote=quote, escape=escape, skip_lines=skip_lines)
        for delimiter in delimiters
        for quote, escape in _quotings(sample, delimiter, is_whole)
    ]
    rows = {each: _sample_rows(sample, each, is_whole) for each in candidates}
    scores = {each: _score(rows[each], each) for each in candidates}
    best = max(candidates, key=lambda each: scores[each])  # the first of equals
    is_in_first_row = bool(rows[best]) and len(rows[best][0]) > 1
    if not given and scores[best] <= (SCORE_TO_BEAT if is_in_first_row else SCORE_TO_BEAT_THE_FIRST_ROW):
        return Dialect(delimiter=NO_DELIMITER, quote=best.quote, skip_lines=skip_lines)
    return best


def _quotings(sample: str, delimiter: str, is_whole: bool) -> list[tuple[str | None, str | None]]:
    """The (quote, escape) pairs that the sample gives reason to try; the standard's first."""
    pairs: list[tuple[str | None, str | None]] = [('"', None)]
    if '"' not in sample:
        edge = re.escape(delimiter)
        if re.search(rf"(?m)(?:^|{edge})'[^'\n]*'(?:{edge}|\r?$)", sample):
            pairs.append(("'", None))
    elif not _is_well_quoted(sample, delimiter, is_whole):
        if '\\"' in sample:
            pairs.append(('"', "\\"))
        pairs.append((None, None))
    return pairs


def _is_well_quoted(sample: str, delimiter: str, is_whole: bool) -> bool:
    """Whether every quote stands where RFC 4180 wants it."""
    lines = _lines(sample)
    reader = csv.reader(lines, **Dialect(delimiter=delimiter).reader_options, strict=True)
    try:
        for _ in reader:
            pass
    except csv.Error:
        return not is_whole and reader.line_num == len(lines)  # the sample ends inside a quoted cell
    return True


def _lines(sample: str) -> list[str]:
    return re.split(r"(?<=\n)|(?<=\r)(?!\n)", sample)


def _sample_rows(sample: str, dialect: Dialect, is_whole: bool) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in csv.reader(_lines(sample), **dialect.reader_options):
            if row:
                rows.append(row)
            if len(rows) > SAMPLE_ROWS:
                return rows
    except csv.Error:  # a cell beyond the limit: this can't be the dialect
        return []
    return rows if is_whole or len(rows) < 2 else rows[:-1]


def _score(rows: Sequence[list[str]], dialect: Dialect) -> float:
    """From 0 (nothing speaks for it) to 1."""
    if not rows:
        return 0.0
    width, count = Counter(map(len, rows)).most_common(1)[0]
    if width == 1:
        return 0.0
    cells = [cell for row in rows for cell in row if cell]
    # A comma inside a cell is common prose; the other delimiters are not.
    foreign = re.compile("[" + re.escape("".join({*FOUND_DELIMITERS[:4]} - {dialect.delimiter, ","})) + "]")
    clean = sum(not foreign.search(cell) or DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells)
    stray = sum(cell.count('"') for cell in cells) if dialect.quote is None else 0
    consistency = count / len(rows)
    cleanness = (clean - min(stray, clean)) / len(cells) if cells else 1.0
    return consistency**2 * (0.3 + 0.7 * cleanness) * (1 - 0.5 / width)


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether the first row names the columns.

    Each column whose other values have a type (number, date, boolean) votes: against a header where its first cell
    has that type too, for one where it hasn't. Without votes, as in a table of texts, the first row is the header.
    """
    first, body = rows[0], rows[1:]
    if not body or _counts_upward(first):
        return True
    votes = 0
    for index, cell in enumerate(first):
        families = Counter(family_of(row[index]) for row in body if index < len(row) and row[index].strip())
        family, count = families.most_common(1)[0] if families else ("", 0)
        if cell.strip() and family and count >= 0.9 * families.total():
            votes += -1 if family_of(cell) == family else 1
    return votes >= 0


def _counts_upward(cells: Sequence[str]) -> bool:
    """Whether the row's numbers are years or indices one after the other, which only headers have."""
    numbers = [int(cell) for cell in cells if cell.strip().isdecimal() and len(cell.strip()) < 10]
    return len(numbers) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def name_columns(cells: Sequence[str], width: int) -> list[str]:
    """Make the names of the columns: stripped, none empty, none twice.

    Args:
        cells: the header's cells; fewer than width where it is short, none where there is no header.
        width: the number of columns.
    """
    names: list[str] = []
    taken: set[str] = set()
    for position in range(1, width + 1):
        cell = " ".join(cells[position - 1].split()) if position <= len(cells) else ""
        stem = cell[:MAX_NAME_CHARS] or f"column {position}"
        name, again = stem, 1
        while name in taken:
            again += 1
            name = f"{stem} ({again})"
        taken.add(name)
        names.append(name)
    return names


MAX_NAME_CHARS = 200
