"""Columns of raw values → ids, numbers and times, and which of them are none.

Ids are Int64 where every one is a whole number, else String. Times are dates, or numbers as they are: only their order
counts, so nothing is rounded.
"""

from __future__ import annotations

import re
from math import isnan

import polars as pl

WHOLE, NUMBER = r"^[0-9]+$", r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
WHOLE_FLOAT = r"^[0-9]+\.0*$"
COMMA, THOUSANDS = r"^[+-]?[0-9]*,[0-9]+$", r"^[+-]?[0-9]{1,3},[0-9]{3}$"
EXACT = 2**53  # whole numbers below it are exact as floats
# What programs write for nothing: among numbers these are missing; among text they may be somebody's name.
MISSING = ("nan", "null", "none", "na", "n/a", "#n/a", "nil", "\\n", "<na>", "nat", "undefined", "(null)", "missing")
EXPECTED = {
    "user": "an id; ids are text, or whole numbers from 0 to 2^63 - 1",
    "item": "an id; ids are text, or whole numbers from 0 to 2^63 - 1",
    "rating": "a finite number",
    "timestamp": "a finite number or a date such as 2023-01-31",
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
CLOCK = (
    r"(?:[T ,]+(?<hour>[0-9]{1,2}):(?<minute>[0-9]{2})(?::(?<second>[0-9]{2})(?:[.,](?<fraction>[0-9]{1,9}))?)?"
    r" *(?<half>[AaPp]\.?[Mm]\.?)? *(?<zone>Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
YEAR_FIRST = r"^(?<year>[0-9]{4})[-/.](?<month>[0-9]{1,2})[-/.](?<day>[0-9]{1,2})" + CLOCK + "$"
YEAR_LAST = r"^(?<one>[0-9]{1,2})[-/. ](?<two>[0-9]{1,2})(?:[-/.]|,? )(?<year>[0-9]{4})" + CLOCK + "$"
WEEKDAY = r"^(?:(?:[Mm]on|[Tt]ue|[Ww]ed|[Tt]hu|[Ff]ri|[Ss]at|[Ss]un)[a-z]*,? )?"
DAY_NAMED = WEEKDAY + r"(?<day>[0-9]{1,2})[ /.-](?<name>[A-Za-z]{3})[a-z]*[ /.,-]+(?<year>[0-9]{4})" + CLOCK + "$"
SHORT_YEAR = r"^[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{2}(\D|$)"
NAME_DAY = WEEKDAY + r"(?<name>[A-Za-z]{3})[a-z]*\.? (?<day>[0-9]{1,2}),? (?<year>[0-9]{4})" + CLOCK + "$"
# As Twitter and `date` write it: Tue Apr 03 18:00:09 +0000 2012
NAME_DAY_CLOCK = (
    WEEKDAY
    + r"(?<name>[A-Za-z]{3}) +(?<day>[0-9]{1,2})(?<hour>) (?<hours>[0-9]{2}):(?<minute>[0-9]{2}):(?<second>[0-9]{2})"
    r"(?<fraction>)(?<half>)(?: (?<zone>[+-][0-9]{4}|UTC|GMT))? (?<year>[0-9]{4})$"
)


class OpenDates(ValueError):
    """The dates of a column may be read in two ways; the message shows one, and says how to write it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; write dates as 2023-01-31")


def is_missing(value: object) -> bool:
    """Whether it is one of the usual words for nothing."""
    if isinstance(value, str):
        return not value or value.lower() in MISSING
    return value is None or (isinstance(value, float) and isnan(value))


def to_ids(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Ids as Int64 or String, and which of them are bad.

    Whole numbers may be of any type that holds them exactly: integers, decimals, floats (as pandas makes of a column
    with a missing id), text.
    """
    if column.dtype.is_integer():
        numbers = column.cast(pl.Int64, strict=False)
        return numbers, numbers.is_null() | (numbers < 0)
    if column.dtype.is_decimal():
        numbers = column.cast(pl.Int64, strict=False)
        return numbers, (
            numbers.is_null() | (numbers < 0) | (numbers.cast(column.dtype, strict=False) != column)
        ).fill_null(True)
    if column.dtype.is_float():
        is_whole = (column.is_finite() & (column == column.floor()) & (column >= 0) & (column < EXACT)).fill_null(False)
        return column.cast(pl.Int64, strict=False), ~is_whole
    column = as_text(column)
    if column.dtype == pl.Null:
        return column.cast(pl.Int64), pl.repeat(True, len(column), eager=True)
    if column.dtype != pl.String:
        return column, pl.Series([True]).extend_constant(False, len(column) - 1)
    missing = column.is_null() | (column == "")
    words = column.str.to_lowercase().is_in(MISSING).fill_null(False)
    is_number = column.str.contains(NUMBER).fill_null(False)
    if not (is_number | missing | words).all() or not is_number.any():
        return column, missing
    missing |= words
    if (column.str.contains(WHOLE_FLOAT).fill_null(False) | missing).all():  # 196.0, as pandas writes beside a NaN
        numbers = column.cast(pl.Float64, strict=False)
        return numbers.cast(pl.Int64, strict=False), missing | (numbers >= EXACT).fill_null(True)
    is_whole = column.str.contains(WHOLE).fill_null(False)
    if not (is_whole | missing).all():
        return column, missing | ~is_whole
    if column.str.contains(r"^0[0-9]").any():  # leading zeros belong to the id: 007 is not 7
        return column, missing
    numbers = column.cast(pl.Int64, strict=False)
    return numbers, numbers.is_null() | missing


def as_text(column: pl.Series) -> pl.Series:
    """Categories, and bytes that are UTF-8, as text; other columns unchanged."""
    if column.dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if column.dtype == pl.Binary:
        try:
            return column.cast(pl.String)
        except pl.exceptions.PolarsError:
            return column
    return column


def to_numbers(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Float64, null where empty, and which are not finite numbers.

    `4,5` is 4.5, as spreadsheets write it, and `1,234` only beside such a one: alone it may be a thousand and more.
    """
    column = as_text(column)
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Boolean, pl.Null)):
        return column, column.is_not_null()  # lists, dates, bytes
    if column.dtype == pl.String:
        has_comma = column.str.contains(COMMA) & ~column.str.contains(THOUSANDS)
        if has_comma.any() and not column.str.contains(".", literal=True).any():
            column = column.str.replace(",", ".", literal=True)
    numbers = column.cast(pl.Float64, strict=False)
    given = column.is_not_null() if column.dtype != pl.String else column.fill_null("") != ""
    return numbers, given & ~numbers.is_finite().fill_null(False)


def to_times(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Times, and which are none: whole numbers as Int64, other numbers as Float64, dates as Datetime (UTC).

    Nanoseconds and .NET ticks are past 2^53, where floats lose the order. Dates in text are read where the column
    settles which number is the day; else OpenDates is raised.
    """
    column = as_text(column)
    none_bad = pl.repeat(False, len(column), eager=True)
    if column.dtype == pl.String:
        whole = column.cast(pl.Int64, strict=False)
        if (whole.is_not_null() | (column.fill_null("") == "")).all():
            return whole, none_bad
        numbers, bad = to_numbers(column)
        if not bad.any():
            return numbers, bad
        dates = _dates(column)
        unread = dates.is_null() & (column.fill_null("") != "")
        return (numbers, bad) if unread.all() else (dates, unread)
    if column.dtype == pl.Date:
        return (column.to_physical().cast(pl.Int64) * 86_400_000).cast(pl.Datetime("ms")), none_bad
    if column.dtype == pl.Datetime:  # by their numbers: polars panics at dates beyond its calendar
        return column.to_physical().cast(pl.Datetime(column.dtype.time_unit)), none_bad
    if column.dtype.is_integer() or column.dtype.is_decimal():
        whole = column.cast(pl.Int64, strict=False)
        if whole.cast(column.dtype, strict=False).equals(column):
            return whole, none_bad
    return to_numbers(column)


def _dates(column: pl.Series) -> pl.Series:
    """Datetime in nanoseconds; null where a text is no date. OpenDates where the order of day and month is open."""
    column = column.str.strip_chars()
    parts = _first_match(column, (YEAR_FIRST, NAME_DAY, DAY_NAMED, NAME_DAY_CLOCK))
    if (short := column.str.contains(SHORT_YEAR).fill_null(False)).any():
        raise OpenDates(f"{column.filter(short)[0]!r} has a year of two digits")
    last = column.str.extract_groups(YEAR_LAST).struct.unnest()
    if last["year"].is_not_null().any():
        one, two = last["one"].cast(pl.Int64), last["two"].cast(pl.Int64)
        day_first, month_first = bool((one > 12).any()), bool((two > 12).any())
        if day_first == month_first and (day_first or not (one == two).all()):
            shown = column.filter(last["year"].is_not_null() & (one != two))[0]
            why = "some days come first, some second" if day_first else "no day is beyond 12"
            year, one, two = re.match(r"([0-9]+)\D+([0-9]+)\D+([0-9]{4})", shown).group(3, 1, 2)
            raise OpenDates(f"{shown!r} may be {year}-{two:0>2}-{one:0>2} or {year}-{one:0>2}-{two:0>2}, since {why}")
        day, month = ("one", "two") if day_first else ("two", "one")
        last = last.rename({day: "day", month: "month"})
        parts = parts.select(
            pl.when(last["year"].is_not_null()).then(last[name]).otherwise(parts[name]).alias(name)
            for name in parts.columns
        )
    return _moments(parts)


PARTS = ("year", "month", "day", "hour", "minute", "second", "fraction", "half", "zone")


def _first_match(column: pl.Series, patterns: tuple[str, ...]) -> pl.DataFrame:
    """The parts of dates as text, by the first pattern that each one matches."""
    parts = pl.DataFrame({name: pl.repeat(None, len(column), dtype=pl.String, eager=True) for name in PARTS})
    for pattern in patterns:
        found = column.str.extract_groups(pattern).struct.unnest()
        if "hours" in found.columns:
            found = found.with_columns(hour=pl.col("hours"))
        if "name" in found.columns:
            numbers = {name: str(number) for number, name in enumerate(MONTHS, start=1)}
            month = pl.col("name").str.to_lowercase().replace_strict(numbers, default=None, return_dtype=pl.String)
            found = found.with_columns(month=month)
        is_new = parts["year"].is_null()
        parts = parts.select(pl.when(is_new).then(found[name]).otherwise(parts[name]).alias(name) for name in PARTS)
    return parts


def _moments(parts: pl.DataFrame) -> pl.Series:
    """Datetime in nanoseconds, UTC, of `PARTS` as text; null where they are no date on the calendar."""
    number = {name: pl.col(name).cast(pl.Int64, strict=False) for name in ("hour", "minute", "second")}
    day = pl.format("{}-{}-{}", *(pl.col(name).str.zfill(2) for name in ("year", "month", "day")))
    day = day.str.to_date("%Y-%m-%d", strict=False)
    half = pl.col("half").str.to_lowercase().str.slice(0, 1)
    hour = pl.when(half == "p").then(number["hour"] % 12 + 12).when(half == "a").then(number["hour"] % 12)
    hour = hour.otherwise(number["hour"]).fill_null(0)
    minute, second = number["minute"].fill_null(0), number["second"].fill_null(0)
    zone = pl.col("zone").str.replace(":", "")
    ahead = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(
        pl.Int64, strict=False
    ).fill_null(0)
    ahead = pl.when(zone.str.starts_with("-")).then(-ahead).when(zone.str.starts_with("+")).then(ahead).otherwise(0)
    nanos = pl.col("fraction").str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0)
    seconds = day.cast(pl.Int64) * 86_400 + hour * 3600 + (minute - ahead) * 60 + second
    valid = (hour < 24) & (minute < 60) & (second < 61) & (day.dt.year().is_between(1678, 2261))
    moment = pl.when(valid).then(seconds * 1_000_000_000 + nanos)
    return parts.select(moment.cast(pl.Datetime("ns")).alias("moment"))["moment"]
