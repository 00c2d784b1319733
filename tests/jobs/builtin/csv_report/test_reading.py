"""Any table comes back as it was written: encodings, delimiters, quotes, ragged rows, names."""

from __future__ import annotations

import csv
import io
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.builtin.csv_report.delimiters import DELIMITER_NAMES
from jobs.builtin.csv_report.profile import ColumnType, Profile
from jobs.builtin.csv_report.profiler import profile_csv
from jobs.builtin.csv_report.readings import MISSING_SPELLINGS

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030")
ACCENTED = "Prénom;Ville;Années\n" + "Éloïse;Orléans;3\nJosé;Besançon;4\n" * 20


def profile(text: str | bytes, *, delimiter: str | None = None, header: bool | None = None) -> Profile:
    content = text.encode() if isinstance(text, str) else text
    return profile_csv(io.BytesIO(content), delimiter=delimiter, header=header)


def written(rows: list[list[str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows(rows)  # type: ignore[arg-type] # any QUOTE_ constant
    return out.getvalue()


# Control characters beyond these, and many of them, are what binary files are known by.
cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r\x1f"), max_size=8)
tables = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=12)
)


@settings(max_examples=120, deadline=None)
@given(
    rows=tables,
    delimiter=st.sampled_from(sorted(DELIMITER_NAMES)),
    encoding=st.sampled_from(ENCODINGS),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
)
def test_any_written_table_is_read_back(rows: list[list[str]], delimiter: str, encoding: str, quoting: int) -> None:
    content = written(rows, delimiter, quoting).encode(encoding)
    found = profile_csv(io.BytesIO(content), delimiter=delimiter, encoding=encoding, header=False)
    assert found.rows == len(rows)
    assert len(found.columns) == len(rows[0])
    for index, column in enumerate(found.columns):
        values = Counter(row[index].strip() for row in rows)
        for spelling in MISSING_SPELLINGS:
            values.pop(spelling, None)
        assert dict(column.top.values).items() <= values.items()
        assert (column.present, column.missing) == (values.total(), len(rows) - values.total())
        assert column.distinct == len(values)


words = st.text("abcdefgh xyzé", min_size=1, max_size=9).filter(str.strip)
numbers = st.one_of(st.integers(-9999, 9999).map(str), st.decimals(0, 999, places=2).map(str))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(2, 6).flatmap(
        lambda width: st.lists(st.tuples(words, *[st.one_of(words, numbers)] * (width - 1)), min_size=3, max_size=30)
    ),
    delimiter=st.sampled_from(",;\t|^~"),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16")),
)
def test_delimiter_and_encoding_are_found(rows: list[tuple[str, ...]], delimiter: str, encoding: str) -> None:
    header = [f"name {index}" for index in range(len(rows[0]))]
    content = written([header, *map(list, rows)], delimiter).encode(encoding)
    found = profile_csv(io.BytesIO(content), header=True)
    assert found.dialect.delimiter == delimiter
    assert (found.rows, len(found.columns)) == (len(rows), len(header))


@pytest.mark.parametrize(
    ("text", "encoding", "label"),
    [
        (ACCENTED, "cp1252", "windows-1252"),
        ("Imię;Miasto\n" + "Łukasz;Kraków\nŻaneta;Łódź\n" * 20, "cp1250", "windows-1250"),
        ("Имя;Город\n" + "Иван;Москва\nОльга;Санкт-Петербург\n" * 20, "cp1251", "windows-1251"),  # noqa: RUF001
        ("名前,都市\n" + "田中太郎,東京都\n鈴木花子,大阪市\n" * 20, "cp932", "Shift JIS"),
        ("姓名,城市\n" + "王小明,北京市\n李华,上海市\n" * 20, "gb18030", "GB 18030"),
        ("item;price\n" + "Tee;3 €\nKaffee;4 €\n" * 9, "cp1252", "windows-1252"),
    ],
)
def test_other_encodings_are_guessed_and_the_guess_is_told(text: str, encoding: str, label: str) -> None:
    found = profile(text.encode(encoding))
    assert found.encoding.label == label
    assert found.columns[0].name == text.splitlines()[0].split(found.dialect.delimiter)[0]
    assert any("is a guess" in warning for warning in found.warnings)


def test_utf16_without_a_mark_is_seen_by_its_zero_bytes() -> None:
    assert profile("a,b\n1,2\n3,4\n".encode("utf-16-be")).encoding.label == "UTF-16 BE"


def test_a_letter_at_the_very_end_decides_the_encoding_of_all() -> None:
    content = b"name,n\n" + b"Smith,1\n" * 400_000 + "José,2\n".encode("cp1252")
    found = profile(content)
    assert found.encoding.label == "windows-1252"
    assert found.rows == 400_001


def test_damaged_utf8_stays_utf8_and_the_place_is_told() -> None:
    content = ("ключ,значение\n" + "один,два\n" * 30).encode() + b"x,\xff\n"
    found = profile(content)
    assert found.encoding.label == "UTF-8"
    assert "byte 0xFF at position" in found.warnings[0]
    assert "(line 32)" in found.warnings[0]


def test_a_byte_order_mark_is_no_part_of_the_first_name() -> None:
    content = '"id, or not",b\n1,2\n'.encode("utf-8-sig")
    for encoding in (None, "utf-8"):
        found = profile_csv(io.BytesIO(content), encoding=encoding)
        assert [column.name for column in found.columns] == ["id, or not", "b"]


def test_decimal_commas_do_not_hide_the_semicolon() -> None:
    found = profile("1,5;2,5;3,5\n" * 10, header=False)
    assert found.dialect.delimiter == ";"
    assert [column.type for column in found.columns] == [ColumnType.NUMBER] * 3
    assert found.columns[0].numbers is not None
    assert found.columns[0].numbers.mean == 1.5


def test_texts_with_commas_in_a_tab_file_and_tags_in_a_comma_file() -> None:
    assert profile("a\tb\n" + "one, two\tthree, four, five\n" * 5).dialect.delimiter == "\t"
    assert profile("a,b\n" + "x,p;q;r\ny,p;q\nz,\n" * 5).dialect.delimiter == ","


def test_a_file_of_one_column_is_fine() -> None:
    found = profile("remark\nso, and so\nfine\n\nwell; well\n")
    assert [column.name for column in found.columns] == ["remark"]
    assert found.rows == 3
    assert found.dialect.label == "none (one column)"
    assert "1 blank line was skipped." in found.warnings


def test_the_separator_line_of_excel_is_obeyed_and_is_no_row() -> None:
    found = profile("sep=|\na|b\n1,0|2,0\n")
    assert [column.name for column in found.columns] == ["a", "b"]
    assert found.rows == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_each_kind_of_line_end_and_quoted_line_ends(newline: str) -> None:
    text = newline.join(["a,b", f'1,"two{newline}lines"', '2,"a ""quoted"" word"', ""])
    found = profile(text)
    assert found.rows == 2
    assert dict(found.columns[1].top.values) == {f"two{newline}lines": 1, 'a "quoted" word': 1}


def test_single_quotes_and_backslashes_are_found() -> None:
    found = profile("a;b\n" + "'x;y';'z'\n" * 5)
    assert found.columns[0].top.values == (("x;y", 5),)
    found = profile("a,b\n" + '"say \\"hi\\", now",2\n' * 5)
    assert found.columns[0].top.values == (('say "hi", now', 5),)


def test_ragged_rows_are_kept_counted_and_told() -> None:
    found = profile("a,b,c\n1,2,3\n4\n5,6,7,8\n9,10,11\n")
    assert found.rows == 4
    assert [column.missing for column in found.columns] == [0, 1, 1]
    assert any("Row 2 has fewer than 3 cells" in warning for warning in found.warnings)
    assert any("Row 3 has more than 3 cells" in warning for warning in found.warnings)


def test_a_header_shorter_than_the_rows_loses_no_column() -> None:
    found = profile("a,b\n1,2,3\n4,5,6\n")
    assert [column.name for column in found.columns] == ["a", "b", "column 3"]
    assert found.columns[2].present == 2


def test_names_are_made_unique() -> None:
    found = profile("x,,x,x (2), y \n1,2,3,4,5\n")
    assert [column.name for column in found.columns] == ["x", "column 2", "x (2)", "x (2) (2)", "y"]


@pytest.mark.parametrize(
    ("text", "is_header"),
    [
        ("name,age\nann,3\nbob,4\n", True),
        ("ann,3\nbob,4\ncid,5\n", False),
        ("2024-01-01,7\n2024-01-02,8\n", False),
        ("country,1990,1991,1992\nChad,1,2,3\nPeru,4,5,6\n", True),
        ("red,green\nround,square\n", True),
        ("only,one,row\n", True),
    ],
)
def test_a_header_is_told_from_data(text: str, *, is_header: bool) -> None:
    assert profile(text).has_header is is_header


def test_a_header_without_rows_is_a_profile_of_nothing() -> None:
    found = profile("a,b,c\n")
    assert found.rows == 0
    assert [column.type for column in found.columns] == [ColumnType.EMPTY] * 3
