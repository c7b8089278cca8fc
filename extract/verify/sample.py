"""Charts to compare next: a sample of all instruments and levels, which continues where the last one ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from extract.clickhouse.client import Database
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.clickhouse.statements import load_statements, render
from extract.coverage.gaps import query, require_covered
from extract.deribit.chart import MAX_BARS, STEP_MS
from extract.deribit.streams import Stream
from extract.source.tables import loaded_relation

STATEMENTS = load_statements(__file__, "verify.sql")
DAY_MS = STEP_MS["1d"]
WINDOW_MS: Mapping[str, int] = {"1m": DAY_MS, "1h": 180 * DAY_MS, "1d": 4_000 * DAY_MS}
"""Time of one chart, less than MAX_BARS bars."""
assert all(WINDOW_MS[level] <= MAX_BARS * step_ms for level, step_ms in STEP_MS.items())


@dataclass(frozen=True)
class Chart:
    """Bars of one instrument and level to compare, that start in [start_ms, end_ms); the window begins at `window_ms`."""

    instrument_name: str
    level: str
    window_ms: int
    start_ms: int
    end_ms: int

    @property
    def step_ms(self) -> int:
        return STEP_MS[self.level]


def choose_charts(
    database: Database, names: Sequence[str], since_ms: int, until_ms: int, most: int
) -> list[Chart]:
    """At most `most` charts with complete bars in covered time from `since_ms` to `until_ms`, of all levels in turn.

    `names`: instruments; empty for all. Raises CannotTellError where no time is covered.
    """
    tables = require_covered(database)
    spans: dict[Stream, list[tuple[int, int]]] = {}
    for currency, kind, start, end in query(database, "covered_spans", tables):
        span = (round(start.timestamp() * 1000), round(end.timestamp() * 1000) + 1)
        spans.setdefault(Stream(currency, kind), []).append(span)
    # Some windows have no complete bar in covered time.
    by_level = [_windows(database, level, names, since_ms, 2 * most) for level in STEP_MS]
    windows = [each for each in chain.from_iterable(zip_longest(*by_level)) if each is not None]
    facts = _instruments(database, {name for _, name, _ in windows}, tables)
    charts: list[Chart] = []
    for level, name, window_ms in windows:
        stream, expiry_ms = facts.get(name, (None, 0))
        for start_ms, end_ms in spans.get(stream, ()) if stream else ():
            step_ms = STEP_MS[level]
            first_ms = -(-max(start_ms, window_ms, since_ms) // step_ms) * step_ms
            last_ms = min(end_ms, until_ms, window_ms + WINDOW_MS[level]) // step_ms * step_ms
            if expiry_ms:
                last_ms = min(last_ms, -(-expiry_ms // step_ms) * step_ms)
            if first_ms < last_ms and len(charts) < most:
                charts.append(Chart(name, level, window_ms, first_ms, last_ms))
    return charts


def _windows(
    database: Database, level: str, names: Sequence[str], since_ms: int, most: int
) -> list[tuple[str, str, int]]:
    """(level, instrument, start of the window in ms) of the windows with candles that are to be compared first."""
    parameters = {
        "level": level,
        "window_s": WINDOW_MS[level] // 1000,
        "names": list(names),
        "since_s": since_ms // 1000,
        "most": most,
    }
    return [(level, name, int(at_s) * 1000) for name, at_s in database.rows(STATEMENTS["charts"], parameters)]


def _instruments(
    database: Database, names: Collection[str], tables: Collection[str]
) -> dict[str, tuple[Stream, int]]:
    """Stream and expiry in ms by instrument; the expiry is 0 where there is none."""
    sql = render(STATEMENTS["instruments"], lambda name: loaded_relation(name, tables))
    rows = database.rows(sql, {"names": sorted(names)})
    return {name: (Stream(currency, kind), int(expiry_ms)) for name, currency, kind, expiry_ms in rows}


def dropped_months(database: Database, table: str, schema: str = MART_DATABASE) -> set[int]:
    """Months, as YYYYMM, that retention dropped from a table."""
    return set(database.column(STATEMENTS["dropped_months"], {"table": f"{schema}.{table}"}))


def raw_tables(database: Database) -> set[str]:
    """Names of the raw tables."""
    return set(database.column(f"select name from system.tables where database = '{RAW_DATABASE}'"))
