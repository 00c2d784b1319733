"""Figures and values in the words and signs of the report."""

from __future__ import annotations

import math

from .readings import date_of

MINUS = "\u2212"
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421, 0x0A: 0x21B5}


def say_count(number: int) -> str:
    """Write 1640000 as 1,640,000."""
    return f"{number:,}"


def say_about(number: int) -> str:
    """Write an estimate, with no more digits than it deserves: 165,000."""
    return f"{int(float(f'{number:.3g}')):,}"


def say_number(number: float | None, digits: int = 4) -> str:
    """Write a number with so many significant digits; whole numbers below 10^15 in full."""
    if number is None:
        return "beyond range"
    if number == 0:
        return "0"
    size = abs(number)
    if size >= 1e15 or size < 1e-4:
        mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    if number == int(number):
        return f"{int(number):,}".replace("-", MINUS)
    decimals = max(digits - 1 - math.floor(math.log10(size)), 0)
    text = f"{number:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def say_short(number: float) -> str:
    """Write a number for the tick of an axis: 12k, 1.5M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size <= abs(number) < 1e15:
            return f"{number / (size if unit != 'k' else 1e3):.4g}{unit}".replace("-", MINUS)
    return say_number(number, 6)


def say_share(part: int, whole: int) -> str:
    """Write a part of a whole in percent; neither a trace as 0% nor almost all as 100%."""
    if not part or not whole:
        return "0%"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1%"
    if percent > 99.9 and part < whole:
        return ">99.9%"
    return f"{percent:.1f}".rstrip("0").rstrip(".") + "%" if percent < 10 or percent > 99 else f"{percent:.0f}%"


def say_size(size_bytes: int) -> str:
    """Write a size in decimal units, as file managers do."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"


def say_moment(seconds: float, *, has_time: bool) -> str:
    """Write a date, or a time in UTC."""
    moment = date_of(seconds)
    return moment.isoformat(sep=" ", timespec="seconds") if has_time else moment.date().isoformat()


def say_value(value: str, chars: int = 120) -> str:
    """Write a cell's text on one line: cut to a length, its control characters made visible."""
    shown = value[: chars - 1] + "…" if len(value) > chars else value
    return shown.translate(CONTROL_PICTURES)


def say_plural(count: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def join_words(words: list[str]) -> str:
    """Write a list as in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
