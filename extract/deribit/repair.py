"""Fetching exactly the missing sequence numbers of one instrument, until they are there or known to be absent."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from extract.deribit.client import DeribitClient, Host
from extract.deribit.proof import SeqRange, missing_in
from extract.deribit.record import Rejected, Trade, TradePage

SURE_AFTER = 3
"""Answers in a row without any trade of a range until the exchange counts as not having it."""


@dataclass
class Repaired:
    """What came of one missing range: its trades, what the exchange does not have, what could not be typed."""

    trades: list[Trade] = field(default_factory=list)
    absent: list[SeqRange] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def repair(client: DeribitClient, host: Host, wanted: SeqRange) -> Repaired:
    """Asks for `wanted`, then for what the answer lacks, until nothing is lacking or it is sure to be absent.

    A full page leaks at its ends, so rows outside of what was asked are dropped and holes inside are asked again.
    """
    result = Repaired()
    open_ranges = [(wanted, 0)]
    while open_ranges:
        asked, fruitless = open_ranges.pop()
        page = _ask(client, host, asked)
        result.rejected += page.rejected
        inside = {t.trade_seq: t for t in page.trades if _is_inside(t, asked)}
        result.trades += inside.values()
        fruitless = 0 if inside else fruitless + 1
        for first, last in missing_in(np.fromiter(inside, dtype=np.int64), asked.first, asked.last):
            missing = SeqRange(asked.instrument_name, first, last)
            if fruitless >= SURE_AFTER:
                result.absent.append(missing)
            else:
                open_ranges.append((missing, fruitless))
    return result


def _is_inside(trade: Trade, asked: SeqRange) -> bool:
    return trade.instrument_name == asked.instrument_name and asked.first <= trade.trade_seq <= asked.last


def _ask(client: DeribitClient, host: Host, asked: SeqRange) -> TradePage:
    return client.trades(
        host,
        "get_last_trades_by_instrument",
        {
            "instrument_name": asked.instrument_name,
            "start_seq": asked.first,
            "end_seq": asked.last,
            "sorting": "asc",
        },
    )
