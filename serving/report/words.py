"""Numbers, ages, instants and names as text for people. Names come from outside: what is not printable is not passed on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.cells import cell_len

NONE = "-"
_TEXT_MAX = 300
_AGES = ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d"))
_AT_S_MAX = 253_402_300_799.0  # the last second of the year 9999


def number(value: float | None) -> str:
    """Three significant digits, whole units from 100 on, never an exponent unless it is tiny.

    >>> [number(value) for value in (1234.4, 2.5, 0.01, 0.0000015, 0.0, None)]
    ['1,234', '2.50', '0.0100', '0.00000150', '0', '-']
    >>> number(9.999), number(1.2e-9), number(float("nan"))
    ('10.0', '1.2e-09', '?')
    """
    if value is None:
        return NONE
    if not math.isfinite(value) or abs(value) >= 1e15:
        return "?"
    if value == 0.0:
        return "0"
    if abs(value) < 1e-6:
        return f"{value:.1e}"
    # The exponent after rounding: 9.999 is written 10.0, not 10.00.
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:,.{max(0, 2 - exponent)}f}"


def percent(share: float | None) -> str:
    """A share as a percentage, a tenth shown below ten.

    >>> percent(0.4), percent(0.034), percent(None)
    ('40 %', '3.4 %', '-')
    """
    if share is None:
        return NONE
    if not math.isfinite(share):
        return "?"
    return f"{share:.1%}".replace("%", " %") if 0.0 < abs(share) < 0.0995 else f"{share:,.0%}".replace("%", " %")


def age(seconds: float) -> str:
    """A span in its largest unit of which there are two or more.

    >>> [age(seconds) for seconds in (20.7, 119, 120, 3 * 3600, 3 * 86_400, -1)]
    ['20 s', '119 s', '2 min', '3 h', '3 d', '0 s']
    """
    if not math.isfinite(seconds):
        return "?"
    size, unit = next(((s, u) for s, u in reversed(_AGES) if seconds >= 2 * s), _AGES[0])
    return f"{max(0, math.floor(seconds / size)):,} {unit}"


def instant(at_s: float | None) -> str:
    """A Unix time to the minute, UTC.

    >>> instant(1_772_546_700.0), instant(None), instant(1e300)
    ('2026-03-03 14:05Z', '-', '?')
    """
    if at_s is None:
        return NONE
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%MZ}" if 0.0 <= at_s <= _AT_S_MAX else "?"


def day(at_s: float) -> str:
    """The day of a Unix time, UTC.

    >>> day(1_772_546_700.0)
    '3 March 2026'
    """
    if not 0.0 <= at_s <= _AT_S_MAX:
        return "?"
    moment = datetime.fromtimestamp(at_s, UTC)
    return f"{moment.day} {moment:%B %Y}"


def count(amount: int, one: str, many: str = "") -> str:
    """An amount with its noun.

    >>> count(1, "price"), count(1200, "price"), count(2, "carries", "carry")
    ('1 price', '1,200 prices', '2 carry')
    """
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def plain(text: str, chars_max: int = _TEXT_MAX) -> str:
    """Text on one line without control, direction and other unprintable characters; a long one is cut.

    >>> plain("a" + chr(27) + "[2J" + chr(10) + "b"), plain("abcdef", 4)
    ('a�[2J�b', 'abc…')
    """
    if len(text) > chars_max:
        text = text[: chars_max - 1] + "…"
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def short(text: str, cells_max: int = 30) -> str:
    """A name for a figure: cut in its middle, since names tend to differ at their ends.

    >>> short("openrouter/meta-llama/llama-3.3-70b-instruct", 20)
    'openroute…b-instruct'
    """
    text = plain(text)
    if cell_len(text) <= cells_max:
        return text
    head, tail = len(text), 0
    while head > 1 and cell_len(text[:head]) > cells_max - cells_max // 2 - 1:
        head -= 1
    while tail < len(text) and cell_len(text[len(text) - tail - 1 :]) <= cells_max // 2:
        tail += 1
    return f"{text[:head]}…{text[len(text) - tail :]}"


def listed(names: Iterable[str], names_max: int = 12) -> str:
    """Names in a row, the first few of many.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], 1)
    ('a, b, c', 'a and 2 more')
    """
    known = [short(name, 60) for name in names]
    rest = len(known) - names_max
    return ", ".join(known) if rest <= 0 else f"{', '.join(known[:names_max])} and {rest:,} more"
