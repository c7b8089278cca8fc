"""Measure decoding on one core without a network: response body → trades → ledger and Arrow table.

Covers everything between the socket and dlt: decode_page, sweep_slice, StreamSweep.accept_slice. Time is CPU time of
the process.

Run `python -m bench.decode [--pages 40] [--profile]`.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from extract.deribit.arrow import to_table
from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.decode import decode_page, decode_trades
from extract.deribit.rate_limit import RateLimiter
from extract.deribit.streams import Stream
from extract.sandbox.tape import Tape
from extract.sweep.fetch_slice import sweep_slice
from extract.sweep.slices import Slice
from extract.sweep.state import Span, StreamState
from extract.sweep.stream_window import StreamSweep

ROWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    trades = Tape.generate(seed=1, trades=ROWS, days=30).trades
    pages = {
        "as the exchange sends it": trades,
        "one unknown field in each": [each | {"new_field": {"a": 1}} for each in trades],
        "prices in quotes": [each | {"price": str(each["price"])} for each in trades],
    }
    print(
        f"{'page of 10,000 trades':<28}{'decode':>12}{'to_table':>12}{'full path':>12}   trades/s, one core"
    )
    for name, records in pages.items():
        body = b'{"result":{"trades":%b,"has_more":false}}' % msgspec.json.encode(records)
        decoded = decode_trades(body)[0]
        speeds = [
            speed(options.pages, lambda body=body: decode_page(body)),
            speed(options.pages, lambda decoded=decoded: to_table(decoded)),
            speed(options.pages, full_path(body, records)),
        ]
        print(f"{name:<28}" + "".join(f"{each:>12,.0f}" for each in speeds))
    if options.profile:
        print_profile(
            full_path(b'{"result":{"trades":%b}}' % msgspec.json.encode(trades), trades), options.pages
        )


def full_path(body: bytes, records: list[dict[str, Any]]) -> Callable[[], None]:
    """Process one slice of one page from the response to the table, each time in a new stream."""
    span = Span(min(r["timestamp"] for r in records), max(r["timestamp"] for r in records))
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    config = DeribitConfig(page_size=ROWS + 1)
    client = DeribitClient(config, transport=transport, limiter=RateLimiter(1e9))
    # Every instrument name starts with the empty currency, so that the page passes as one of this stream.
    stream = Stream("", "future")

    def run() -> None:
        sweep = StreamSweep(client, stream, StreamState(), span, span.end_ms + 10**9, has_more_spans=False)
        host, planner, _ = sweep.next_slice()
        part = Slice(span.start_ms, span.end_ms)
        sweep.accept_slice(planner, part, sweep_slice(client, host, stream, part))

    return run


def speed(pages: int, run: Callable[[], object]) -> float:
    """Trades per second over `pages` runs, after a warm-up run."""
    run()
    began_s = time.process_time()
    for _ in range(pages):
        run()
    return pages * ROWS / (time.process_time() - began_s)


def print_profile(run: Callable[[], object], pages: int) -> None:
    profile = cProfile.Profile()
    profile.runcall(lambda: [run() for _ in range(pages)])
    pstats.Stats(profile).sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
