"""Recorded options of 2019 through the whole extractor: every trade, and exactly the absent ranges."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from extract.deribit.streams import Stream
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.sweep.ledger import SeqRange
from tests.support.recorded import RECORDED_TAPE, needs_recordings
from tests.support.sweep_helpers import Crawl, row_of

LATER_MS = 120_000

pytestmark = [pytest.mark.slow, needs_recordings]


def test_recorded_tape_is_loaded_completely() -> None:
    """73,548 trades of 634 instruments, each once; 70 absent heads with 19,104 trades, in few requests."""
    tape = Tape.load(RECORDED_TAPE)
    first: dict[str, int] = defaultdict(lambda: 2**62)
    for record in tape.trades:
        name = record["instrument_name"]
        first[name] = min(first[name], record["trade_seq"])
    heads = Counter(SeqRange(name, 1, seq - 1) for name, seq in first.items() if seq > 1)
    assert (len(tape.trades), len(first), len(heads)) == (73_548, 634, 70)
    assert sum(map(len, heads)) == 19_104

    with SandboxExchange(tape, clock=tape.trades[-1]["timestamp"] + LATER_MS) as exchange:
        streams = [Stream(currency, "option") for currency in ("BTC", "ETH")]
        crawl = Crawl(exchange, streams, max_trades=10_000)
        crawl.run()
        assert crawl.rows == Counter(map(row_of, tape.trades))
        assert crawl.absent == heads
        assert len(crawl.reports) >= 2
        # Pages of 10,000, six answers for each head that is not there, some probes.
        assert crawl.requests < 70 * 6 + 80, crawl.requests
        assert crawl.run() == 0
