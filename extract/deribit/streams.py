"""Streams: the trades of one currency and instrument kind."""

from __future__ import annotations

from typing import NamedTuple

EPOCH_MS = 1_451_606_400_000
"""2016-01-01 UTC in ms; the exchange has no earlier trade."""

TradeKey = tuple[str, int]
"""(instrument_name, trade_seq): identifies a trade."""


class Stream(NamedTuple):
    """The trades of one currency and kind."""

    currency: str
    kind: str

    def __str__(self) -> str:
        return f"{self.currency} {self.kind}"

    @classmethod
    def parse(cls, name: str) -> Stream:
        """The stream whose `str` is `name`."""
        currency, _, kind = name.partition(" ")
        return cls(currency, kind)


ANY = "any"
"""Value of the API's parameters `kind` and `currency` for all."""
SPOT = "spot"
"""Kind of pairs, which belong to two currencies."""


def is_currency(text: str) -> bool:
    """Whether `text` can name one currency, in requests and in the name of a stream: it has no space, and is not ANY."""
    return text.split() == [text] and text.isprintable() and text != ANY
