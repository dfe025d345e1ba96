"""How a number with its error is written for people, the same in tables and plots."""

from __future__ import annotations

import math
import re

__all__ = ["NOT_KNOWN", "counted", "file_name", "with_error"]

NOT_KNOWN = "–"
"""Stands for a value that was not determined."""

# Two digits of the error: with one, a value could move by half an error by rounding alone; a third says
# nothing, since an error is itself known to 10 % at best.
_ERROR_DIGITS = 2
_DIGITS_WITHOUT_ERROR = 4


def with_error(value: float, error: float, *, scale: float = 1.0, unit: str = "") -> str:
    """Write `value` to the digits that its error leaves.

    Parameters
    ----------
    value, error
        The value and its standard error, in the same unit; either may be NaN.
    scale
        Both are multiplied by it before they are written.
    unit
        Written behind, if any.

    Returns
    -------
    str
        For example ``1.5021 ± 0.0032``, four significant digits if the error is not known, and
        `NOT_KNOWN` if the value is not.

    Examples
    --------
    >>> with_error(1.502134, 0.003211)
    '1.5021 ± 0.0032'
    """
    value, error = value * scale, error * scale
    if not math.isfinite(value):
        return NOT_KNOWN
    if math.isfinite(error) and error > 0:
        decimals = _ERROR_DIGITS - 1 - math.floor(math.log10(error))
        text = f"{_fixed(value, decimals)} ± {_fixed(error, decimals)}"
    else:
        text = f"{value:.{_DIGITS_WITHOUT_ERROR}g}"
    text = text.replace("-", "−")
    return f"{text} {unit}" if unit else text


def counted(number: int, noun: str) -> str:
    """Write a number of things, for example ``1 amplifier`` or ``15 amplifiers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def file_name(detector: str) -> str:
    """Return a detector's name without what the name of a file cannot hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", detector) or "detector"


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.{max(decimals, 0)}f}"
