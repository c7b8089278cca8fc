"""Money as Decimal: added exactly, rounded to cents once, when it is displayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, Inexact

CENT = Decimal("0.01")
UNKNOWN = "unknown"

_EXACT = Context(prec=100, traps=[Inexact])
"""More digits than any sum of JSON numbers needs; a sum that needed more would raise an error, not be rounded."""


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    result = Decimal(0)
    for amount in amounts:
        result = _EXACT.add(result, amount)
    return result


def in_cents(amount: Decimal) -> Decimal:
    """Round to whole cents, half a cent up, as invoices do."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def split_cents(amounts: Sequence[Decimal]) -> list[Decimal]:
    """Round each amount to whole cents so that they add up to the rounded sum: the largest remainders are rounded up."""
    floors = [amount.quantize(CENT, ROUND_FLOOR) for amount in amounts]
    missing = int((in_cents(total(amounts)) - total(floors)) / CENT)
    by_remainder = sorted(range(len(amounts)), key=lambda at: floors[at] - amounts[at])
    for at in by_remainder[:missing]:
        floors[at] += CENT
    return floors


def usd(amount: Decimal | None) -> str:
    """`1,234.50`; `unknown`, and never 0, for None."""
    return UNKNOWN if amount is None else f"{in_cents(amount):,}"
