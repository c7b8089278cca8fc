"""Compare bytes per trade with the best known published layout, and the bytes of all candles with those of the trades.

Measured with merged parts on the recorded tape, where it exists, on one of the sandbox, and on the sparse one, nearly
each of whose trades is a candle of its own at every level. `--codecs` also prints the size of each column with other
codecs and types next to the declared one.

Run `python -m bench.storage [--trades N] [--codecs]`; exit code 1 if trades take more than half of the published layout, or
the candles of all levels together more than twice the bytes of the trades.
"""

from __future__ import annotations

import argparse
import re
import sys

from rich.console import Console
from rich.table import Table

from bench.own_project import CANDLES, TRADES, build_trades, own_project, tapes
from harness.dbt_project import Project

AT_MOST_SHARE = 0.5
AT_MOST_CANDLES = 2.0
REFERENCE = "deribit.reference"
CREATE_REFERENCE = f"""
    CREATE TABLE {REFERENCE} (trade_id String, instrument_name String, timestamp DateTime64(3),
        price Float64, amount Float64, direction LowCardinality(String), iv Nullable(Float64),
        index_price Nullable(Float64), mark_price Nullable(Float64), underlying LowCardinality(String),
        expiry Date, strike Float64, option_type LowCardinality(String))
    ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(timestamp)
    ORDER BY (underlying, expiry, timestamp, strike, option_type, trade_id)
"""
FILL_REFERENCE = f"""
    INSERT INTO {REFERENCE}
    SELECT trade_id, instrument_name, timestamp, price, amount, direction, iv, index_price, mark_price,
        ifNull(underlying, ''), toDate(ifNull(expiry, toDateTime(0, 'UTC'))), ifNull(strike, 0), ifNull(option_type, '')
    FROM deribit.trades
"""
SIZE = """
    SELECT sum(data_compressed_bytes) / sum(parts.rows) AS data, sum(bytes_on_disk) / sum(parts.rows) AS disk,
        sum(data_compressed_bytes) AS bytes, sum(parts.rows) AS rows
    FROM system.parts AS parts WHERE active AND concat(database, '.', table) = {table:String}
"""
COLUMNS = """
    SELECT column, sum(column_data_compressed_bytes) / sum(parts_columns.rows) AS bytes
    FROM system.parts_columns AS parts_columns WHERE active AND concat(database, '.', table) = {table:String}
    GROUP BY column
"""
INTEGERS = (
    "Delta, ZSTD(9)",
    "T64, ZSTD(9)",
    "Delta, T64, ZSTD(3)",
    "Delta, T64, ZSTD(9)",
    "DoubleDelta, ZSTD(3)",
)
FLOATS = ("Gorilla, ZSTD(3)", "FPC, ZSTD(3)")
ANY = ("LZ4", "ZSTD(1)", "ZSTD(3)", "ZSTD(9)")
COLUMN = re.compile(
    r"^    `(?P<name>\w+)` (?P<type>.+?)(?: CODEC\((?P<codec>.+)\))?(?P<end>,?)$", re.MULTILINE
)
DECLARED, SWAPPED = "declared", "String and LowCardinality swapped"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trades", type=int, default=300_000, help="trades to generate")
    parser.add_argument("--codecs", action="store_true", help="also measure other codecs and types")
    options = parser.parse_args()
    is_within_promise = True
    with own_project() as dbt:
        for tape in tapes():
            build_trades(dbt, tape, options.trades)
            is_within_promise &= _compare_with_reference(dbt, tape) and _compare_candles(dbt)
            for table in (TRADES, *CANDLES) if options.codecs else ():
                _show_codecs(dbt, table, tape)
    return int(not is_within_promise)


def _compare_with_reference(dbt: Project, tape: str) -> bool:
    """Print both sizes; whether the project's layout takes at most half, of data and of disk."""
    dbt.client.command(CREATE_REFERENCE)
    dbt.client.command(FILL_REFERENCE)
    dbt.client.command(f"OPTIMIZE TABLE {REFERENCE} FINAL")
    (count,) = dbt.rows("SELECT count() AS n FROM deribit.trades")
    project, reference = (
        dbt.client.query(SIZE, parameters={"table": table}).first_item for table in (TRADES, REFERENCE)
    )
    table = Table("bytes per trade", "data", "on disk", box=None, pad_edge=False)
    for name, size in (("deribit.trades", project), ("reference", reference)):
        table.add_row(name, *(f"{size[what]:.2f}" for what in ("data", "disk")))
    shares = [project[what] / reference[what] for what in ("data", "disk")]
    table.add_row("share", *(f"{share:.3f} (at most {AT_MOST_SHARE})" for share in shares))
    Console(width=100).print(f"\n{count['n']:,} trades of the {tape} tape", table)
    return max(shares) <= AT_MOST_SHARE


def _compare_candles(dbt: Project) -> bool:
    """Print the sizes of the stored levels; whether together they take at most twice the bytes of the trades."""
    sizes = {
        table: dbt.client.query(SIZE, parameters={"table": table}).first_item for table in (TRADES, *CANDLES)
    }
    table = Table("table", "rows", "bytes per row", "bytes", box=None, pad_edge=False)
    for name, size in sizes.items():
        table.add_row(name, f"{size['rows']:,}", f"{size['data']:.2f}", f"{size['bytes']:,}")
    times = sum(sizes[name]["bytes"] for name in CANDLES) / sizes[TRADES]["bytes"]
    Console(width=100).print(table, f"all candles: {times:.2f} times the trades (at most {AT_MOST_CANDLES})")
    return bool(times <= AT_MOST_CANDLES)


def _show_codecs(dbt: Project, of: str, tape: str) -> None:
    """Print the declared codec of each column of a table, largest column first, and the other codecs, best first."""
    ddl: str = dbt.client.command(f"SHOW CREATE TABLE {of} FORMAT TSVRaw")
    candidates = (DECLARED, *ANY, *INTEGERS, *FLOATS, SWAPPED)
    sizes = {each: _bytes_by_column(dbt, of, ddl, each) for each in candidates}
    codecs = {column["name"]: column["codec"] for column in COLUMN.finditer(ddl)}
    table = Table(f"{of}, {tape}", "declared", "bytes", "others", box=None, pad_edge=False)
    for name, size in sorted(sizes[DECLARED].items(), key=lambda each: -each[1]):
        others = sorted(
            (sizes[each][name], each) for each in sizes if name in sizes[each] and each != DECLARED
        )
        listed = ", ".join(f"{each} {other:.3f}" for other, each in others)
        table.add_row(name, codecs[name], f"{size:.3f}", listed)
    Console(width=250).print(table)


def _bytes_by_column(dbt: Project, of: str, ddl: str, candidate: str) -> dict[str, float]:
    """Bytes per trade of each column that the candidate applies to, in wide parts, which have a size per column."""
    changed: set[str] = set()

    def edit(column: re.Match[str]) -> str:
        kind, codec = column["type"], column["codec"]
        if candidate == SWAPPED and "String" in kind:
            kind = _swapped(kind)
        elif candidate != DECLARED and _fits(candidate, kind):
            codec = candidate
        elif candidate != DECLARED:
            return column[0]
        changed.add(column["name"])
        return f"    `{column['name']}` {kind} CODEC({codec}){column['end']}"

    copy = "deribit.candidate"
    text = (
        COLUMN.sub(edit, ddl).replace(of, copy).replace("SETTINGS ", "SETTINGS min_bytes_for_wide_part = 0, ")
    )
    dbt.client.command(f"DROP TABLE IF EXISTS {copy} SYNC")
    dbt.client.command(text, settings={"allow_suspicious_low_cardinality_types": 1})
    dbt.client.command(f"INSERT INTO {copy} SELECT * FROM {of}")
    dbt.client.command(f"OPTIMIZE TABLE {copy} FINAL")
    rows = dbt.client.query(COLUMNS, parameters={"table": copy}).named_results()
    return {row["column"]: row["bytes"] for row in rows if row["column"] in changed}


def _fits(candidate: str, kind: str) -> bool:
    is_integer = re.search(r"\b(U?Int\d+|DateTime(64)?)\b", kind) is not None
    return (
        candidate in ANY
        or (candidate in INTEGERS and is_integer)
        or (candidate in FLOATS and "Float" in kind)
    )


def _swapped(kind: str) -> str:
    return (
        kind[len("LowCardinality(") : -1] if kind.startswith("LowCardinality") else f"LowCardinality({kind})"
    )


if __name__ == "__main__":
    sys.exit(main())
