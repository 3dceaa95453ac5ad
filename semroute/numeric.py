"""Numbers that come from outside."""

from __future__ import annotations

import math


def finite(value: object) -> float | None:
    """`value` as a float; None for what is no finite number: a bool, NaN, a whole number beyond any float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
