"""The JSON result: the figures of the profile, cut to a size that webhooks and pages can carry."""

from __future__ import annotations

import json
from typing import Any

from .profile import RANKS, ColumnProfile, Profile
from .readings import date_of

MAX_BYTES = 190_000
VALUE_CHARS = 100
TOP_SHOWN = 5

# Any: JSON.
Json = dict[str, Any]


def summarise(profile: Profile) -> Json:
    """Make the result of the job.

    Columns are told in full as far as MAX_BYTES reach, then by name, type and missing, then only counted; `cut` says
    that it came to that.
    """
    result: Json = {
        "rows": profile.rows,
        "columnCount": len(profile.columns),
        "sizeBytes": profile.size_bytes,
        "encoding": profile.encoding.label,
        "delimiter": profile.dialect.delimiter if profile.dialect.label != "none (one column)" else None,
        "header": profile.has_header,
        "exactUpToDistinct": profile.exact_limit,
        "warnings": list(profile.warnings),
        "cut": False,
        "columns": [_full(column) for column in profile.columns[:500]],
    }
    if len(profile.columns) <= 500 and _size(result) <= MAX_BYTES:
        return result
    result["cut"] = True
    result["columns"] = []
    room = MAX_BYTES - _size(result) - len('"columnsOmitted": 10000, ')
    # Half of the room for columns in full, the rest for columns in brief.
    for column in profile.columns:
        entry = _full(column) if room > MAX_BYTES // 2 else _brief(column)
        room -= _size(entry) + 2
        if room < 0:
            break
        result["columns"].append(entry)
    result["columnsOmitted"] = len(profile.columns) - len(result["columns"])
    return result


def _size(value: Json) -> int:
    return len(json.dumps(value))


def _brief(column: ColumnProfile) -> Json:
    return {"name": column.name[:VALUE_CHARS], "type": column.type.value, "missing": column.missing}


def _full(column: ColumnProfile) -> Json:
    entry = _brief(column) | {
        "distinct": column.distinct,
        "distinctExact": not column.distinct_error,
        "exceptions": column.exceptions.count,
        "top": [{"value": value[:VALUE_CHARS], "count": count} for value, count in column.top.values[:TOP_SHOWN]],
        "topExact": not column.top.max_error,
    }
    names = [f"p{rank * 100:g}" for rank in RANKS]
    if column.numbers:
        numbers = column.numbers
        whole = column.type.value == "integer"
        entry |= {
            "min": _number(numbers.minimum, whole),
            "max": _number(numbers.maximum, whole),
            "mean": numbers.mean,
            "std": numbers.std,
            "quantiles": dict(zip(names, numbers.quantiles, strict=True)),
            "quantilesExact": numbers.is_exact,
            "outliers": numbers.outliers.count,
        }
    elif column.dates:
        has_time = column.type.value == "datetime"
        entry |= {
            "min": _moment(column.dates.minimum, has_time),
            "max": _moment(column.dates.maximum, has_time),
            "quantiles": {
                name: _moment(each, has_time) for name, each in zip(names, column.dates.quantiles, strict=True)
            },
            "quantilesExact": column.dates.is_exact,
        }
    if column.lengths:
        entry["length"] = {
            "min": column.lengths.shortest,
            "max": column.lengths.longest,
            "mean": round(column.lengths.mean, 2),
        }
    return entry


def _number(number: float, whole: bool) -> float | int:
    return int(number) if whole and abs(number) < 2**53 else number


def _moment(seconds: float, has_time: bool) -> str:
    moment = date_of(seconds)
    return moment.isoformat() if has_time else moment.date().isoformat()
