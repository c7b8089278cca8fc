"""Money is Decimal: added up exactly, rounded to the cent once, where it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, Inexact

CENT = Decimal("0.01")
UNKNOWN = "unknown"

_EXACT = Context(prec=100, traps=[Inexact])
"""More digits than any sum of JSON numbers needs; one that needed more would raise, not round."""


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    found = Decimal(0)
    for amount in amounts:
        found = _EXACT.add(found, amount)
    return found


def in_cents(amount: Decimal) -> Decimal:
    """Whole cents, half a cent up, as an invoice has it."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def split_cents(amounts: Sequence[Decimal]) -> list[Decimal]:
    """Each amount in whole cents, so that they add up to the rounded sum: the largest remainders are rounded up."""
    floors = [amount.quantize(CENT, ROUND_FLOOR) for amount in amounts]
    missing = int((in_cents(total(amounts)) - total(floors)) / CENT)
    by_remainder = sorted(range(len(amounts)), key=lambda at: floors[at] - amounts[at])
    for at in by_remainder[:missing]:
        floors[at] += CENT
    return floors


def usd(amount: Decimal | None) -> str:
    """`1,234.50`; what is not known is said, never shown as 0."""
    return UNKNOWN if amount is None else f"{in_cents(amount):,}"
