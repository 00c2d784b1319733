"""Figures, sizes and times in the words of the pages, in the reader's language."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils.formats import number_format
from django.utils.translation import gettext as _

MINUTE, HOUR, DAY = 60, 3600, 86_400


def say_number(number: float) -> str:
    """Write 1640000 as 1,640,000; whole numbers without decimals."""
    if float(number).is_integer():
        return number_format(int(number), use_l10n=True, force_grouping=True)
    return number_format(round(number, 2), use_l10n=True, force_grouping=True)


def say_duration(seconds: float) -> str:
    """Write a duration in its one or two largest units.

    Args:
        seconds: below zero counts as zero.
    """
    seconds = max(0.0, seconds)
    if seconds < 1:
        return _("%(number)s ms") % {"number": round(seconds * 1000)}
    if seconds < 10:
        return _("%(number)s s") % {"number": number_format(round(seconds, 1), use_l10n=True)}
    if seconds < MINUTE:
        return _("%(number)s s") % {"number": int(seconds)}
    if seconds < HOUR:
        return _("%(number)s min") % {"number": int(seconds // MINUTE)}
    if seconds < DAY:
        hours, minutes = divmod(int(seconds // MINUTE), 60)
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes}
    days, hours = divmod(int(seconds // HOUR), 24)
    return _("%(days)s d %(hours)s h") % {"days": days, "hours": hours}


def say_size(size: int) -> str:
    """Write a size given in bytes in decimal units, as file managers do."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    digits = 0 if unit == "B" or amount >= 100 else 1
    return f"{number_format(round(amount, digits), digits, use_l10n=True, force_grouping=True)} {unit}"


def say_time(moment: datetime, digits: int = 0) -> str:
    """Write a time of day in UTC with seconds and, where asked, parts of a second."""
    utc = moment.astimezone(UTC)
    text = utc.strftime("%H:%M:%S")
    return f"{text}.{f'{utc.microsecond:06d}'[:digits]}" if digits else text


def say_count(count: int, most: int) -> str:
    """Write a count that was taken only up to a limit."""
    return f"{say_number(most)}+" if count > most else say_number(count)
