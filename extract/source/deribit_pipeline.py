"""Example: load a week of BTC options into DuckDB, then what is new. Run `python -m extract.source.deribit_pipeline`."""

from __future__ import annotations

import dlt

from extract.source import deribit


def load_options(pipeline: dlt.Pipeline, start: str = "7d") -> None:
    """Load windows until a run finds nothing new."""
    while (info := pipeline.run(deribit(currencies=["BTC"], kinds=["option"], start=start))).loads_ids:
        print(info)


def load_instruments(pipeline: dlt.Pipeline) -> None:
    """Load the instruments of all currencies, and no trades."""
    print(pipeline.run(deribit().with_resources("instruments")))


if __name__ == "__main__":
    load_options(dlt.pipeline("deribit", destination="duckdb", dataset_name="market", progress="log"))
