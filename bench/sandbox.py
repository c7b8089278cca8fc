"""Measure the speed of the sandbox exchange, to rule it out as the bottleneck of other benchmarks.

Run `python bench/sandbox.py [TRADES]`. Prints generated trades per second, then served pages and trades per second for
a client in another process that reads bytes without decoding them.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from urllib.parse import urlencode, urlsplit

from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape

SECONDS = 3.0
REQUESTS = (
    ("history, by currency and time", "/history/api/v2", "get_last_trades_by_currency_and_time", 10_000),
    ("history, by currency", "/history/api/v2", "get_last_trades_by_currency", 10_000),
    ("live, by currency", "/api/v2", "get_last_trades_by_currency", 1000),
    ("live, get_time", "/api/v2", "get_time", 0),
)


def main(trades: int) -> None:
    began_s = time.perf_counter()
    tape = Tape.generate(trades=trades)
    generated_s = time.perf_counter() - began_s
    print(f"{trades:,} trades generated in {generated_s:.1f} s: {trades / generated_s:,.0f} trades/s")
    began_s = time.perf_counter()
    with SandboxExchange(tape) as exchange:
        print(f"exchange up in {time.perf_counter() - began_s:.1f} s")
        for title, host, method, count in REQUESTS:
            query = urlencode(
                {"currency": "BTC", "count": count or 1, "start_timestamp": exchange.now_ms - 86_399_000}
                if "live" in title
                else {
                    "currency": "BTC",
                    "count": count,
                    "start_timestamp": 0,
                    "end_timestamp": exchange.now_ms,
                }
            )
            where = f"{host}/public/{method}?{query}"
            command = [sys.executable, __file__, "--client", exchange.url, where, str(SECONDS)]
            print(
                f"{title:32}{subprocess.run(command, check=True, capture_output=True, text=True).stdout}",
                end="",
            )


def client(url: str, where: str, seconds: str) -> None:
    """Request one page repeatedly on one connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    pages = trades = size = 0
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < float(seconds):
        connection.request("GET", where)
        body = connection.getresponse().read()
        pages, size = pages + 1, size + len(body)
        if pages == 1:
            result = json.loads(body)["result"]
            trades = len(result["trades"]) if isinstance(result, dict) else 0
    took_s = time.perf_counter() - began_s
    rates = f"{pages / took_s:8,.0f} pages/s {trades * pages / took_s:12,.0f} trades/s"
    print(f"{rates} {size / took_s / 1e6:8,.0f} MB/s")


if __name__ == "__main__":
    if "--client" in sys.argv:
        client(*sys.argv[2:5])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 200_000)
