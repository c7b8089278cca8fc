"""Generated trade histories: bursts, disorder, late trades, gaps."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from extract.deribit.streams import Stream

BEGIN_MS = 1_700_000_000_000
NAMES = (
    "BTC-PERPETUAL",
    "BTC-29DEC23",
    "BTC-17NOV23",
    "BTC-15NOV23",
    "BTC-29DEC23-30000-C",
    "BTC-17NOV23-35000-P",
    "BTC-15NOV23-36000-C",
    "BTC-FS-29DEC23_PERP",
)
STREAMS = (Stream("BTC", "future"), Stream("BTC", "option"), Stream("BTC", "future_combo"))

Record = dict[str, Any]


@st.composite
def histories(draw: st.DrawFn, *, span_ms: int = 3 * 86_400_000, most_moments: int = 20) -> list[Record]:
    """Trades of one currency: moments with one to many trades, ids up to 18 ms out of the order of time.

    Within one instrument, time ascends with trade_seq, as in all 72,914 recorded pairs of successive trades.
    """
    gaps = st.one_of(st.integers(0, 3), st.integers(10, 2_000), st.integers(60_000, span_ms // 40))
    sizes = st.one_of(st.integers(1, 3), st.integers(1, 3), st.integers(10, 30))
    moments = draw(st.lists(st.tuples(gaps, sizes, st.integers(0, 2**16)), min_size=1, max_size=most_moments))
    records: list[Record] = []
    seqs = dict.fromkeys(NAMES, 0)
    last_ms = dict.fromkeys(NAMES, 0)
    at_ms = BEGIN_MS
    for gap_ms, size, seed in moments:
        at_ms += gap_ms
        for number in range(size):
            name = NAMES[(seed + number * (seed % 3)) % len(NAMES)]
            seqs[name] += 1
            lag_ms = (seed * (number + 1)) % 19 if seed % 2 else 0
            last_ms[name] = max(last_ms[name], at_ms - lag_ms)
            records.append(trade(name, seqs[name], len(records) + 1, last_ms[name]))
    return records


def trade(name: str, seq: int, number: int, at_ms: int, **more: Any) -> Record:
    """A trade as the exchange sends it; price and amount are unique."""
    record = {
        "trade_seq": seq,
        "trade_id": str(1_000_000 + number),
        "timestamp": at_ms,
        "instrument_name": name,
        "price": 30_000.0 + number,
        "amount": 10.0 * seq,
        "direction": "buy",
        "tick_direction": 0,
        "index_price": 30_000.0,
        "mark_price": 30_001.0,
    }
    return record | more
