"""Baseline: dlt's rest_api source without tuning, page by page, into the same server.

Run `python -m bench.plain_dlt URL TRADES HOST PORT DATABASE DIRECTORY`.
"""

from __future__ import annotations

import os
import sys

import dlt
from dlt.sources.rest_api import rest_api_source

from bench.pages import CURRENCY, KIND, PAGE
from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import LOCAL_USER, ClickHouseSettings


def main(url: str, trades: int, host: str, port: int, database: str, directory: str) -> None:
    source = rest_api_source(
        {
            "client": {"base_url": f"{url}/public/"},
            "resources": [
                {
                    "name": "trades",
                    "endpoint": {
                        "path": "get_last_trades_by_currency_and_time",
                        "params": {"currency": CURRENCY, "kind": KIND, "count": PAGE},
                        "data_selector": "result.trades",
                        "paginator": {
                            "type": "page_number",
                            "base_page": 0,
                            "total_path": None,
                            "maximum_page": -(-trades // PAGE),
                        },
                    },
                }
            ],
        }
    )
    settings = ClickHouseSettings("local", host, port, LOCAL_USER, os.environ["CLICKHOUSE_LOCAL_PASSWORD"])
    dlt.pipeline(
        "plain", destination=tape_clickhouse(settings), dataset_name=database, pipelines_dir=directory
    ).run(source)


if __name__ == "__main__":
    url, trades, host, port, database, directory = sys.argv[1:]
    main(url, int(trades), host, int(port), database, directory)
