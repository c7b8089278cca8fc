"""Sums of money are exact, and rounded amounts add up."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from extract.cost.billing.money import CENT, in_cents, split_cents, total, usd

AMOUNTS = st.lists(st.decimals("-1000", "1000", places=12), max_size=40)


@given(AMOUNTS)
def test_total_is_exact(amounts: list[Decimal]) -> None:
    assert Fraction(total(amounts)) == sum(map(Fraction, amounts), Fraction(0))


@given(AMOUNTS)
def test_split_cents_add_up_to_the_rounded_sum(amounts: list[Decimal]) -> None:
    """Each differs from its amount by less than a cent."""
    split = split_cents(amounts)
    assert sum(split, Decimal(0)) == in_cents(total(amounts))
    assert all(cents == cents.quantize(CENT) for cents in split)
    assert all(abs(cents - amount) < CENT for cents, amount in zip(split, amounts, strict=True))


def test_three_thirds_of_a_cent_are_split_as_one_cent() -> None:
    """Rounded one by one, each would be 0."""
    assert split_cents([Decimal("0.0034")] * 3) == [CENT, Decimal(0), Decimal(0)]


def test_unknown_amount_is_not_0() -> None:
    assert [usd(None), usd(Decimal(0)), usd(Decimal("1234.505"))] == ["unknown", "0.00", "1,234.51"]
