"""Export tables to a folder or a bucket: one file per part, each complete before the next, the manifest last.

An export that is repeated writes only the files whose rows have changed. While it writes, the folder has no manifest: a
reader that starts from the manifest never sees a mixture of two exports. A killed export is resumed by the next one.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from extract.clickhouse.client import Database
from extract.clickhouse.finished import CONSISTENT
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.coverage.gaps import Scope as Streams
from extract.coverage.series import fetch_series_status
from extract.coverage.status import fetch_status
from extract.errors import CannotTellError, FinalError, RetriableError, UsageError
from extract.export.gaps import write_gaps
from extract.export.manifest import SEQS, VERSION, LoadPackages, Manifest, Scope, TableSummary
from extract.export.packages import finished_packages, have_trades_moved, wait_for_models
from extract.export.parts import FORMATS, READ_SETTINGS, STATEMENTS, Filter, Part, Planner, month_before
from extract.export.place import Place, seqs_path
from extract.export.seqs import RUN_COLUMNS, read_content, write_rows
from extract.export.store import Store
from extract.export.tables import MARTS, TRADES, ExportTable, choose_tables
from extract.listener import Listener
from extract.times import END_MS, iso

WAIT_FOR_MODELS_S = 60.0
ATTEMPTS = 5
"""Attempts to write a file whose rows change meanwhile."""
ROUNDS = 10
"""Repetitions of an export during which trades moved from one month to another."""
GZIP_LEVEL = 3


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    `tables`: names, all marts by default. `changed_since_us`: look for changes after this time only, in µs since 1970
    UTC; None compares every file with the database.
    """

    format: str = "parquet"
    tables: tuple[str, ...] = ()
    filters: Filter = field(default_factory=Filter)
    changed_since_us: int | None = None


@dataclass
class ExportReport:
    """Result of an export. `rows` and `bytes` are of all files; `written` and `deleted` count files, and `unchanged` too."""

    place: str
    manifest: Manifest
    written: int = 0
    rows_written: int = 0
    unchanged: int = 0
    deleted: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.manifest.tables.values())

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.manifest.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "rows": self.rows,
            "bytes": self.bytes,
            "files": len(self.manifest.files),
            "written": self.written,
            "rows_written": self.rows_written,
            "unchanged": self.unchanged,
            "deleted": self.deleted,
            "seconds": round(self.seconds, 3),
            "tables": {name: asdict(table) for name, table in self.manifest.tables.items()},
            "load_packages": asdict(self.manifest.load_packages),
        }


def export(
    database: Database,
    store: Store,
    options: ExportOptions | None = None,
    *,
    listener: Listener | None = None,
    wait_s: float = WAIT_FOR_MODELS_S,
    before_publish: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export to `store`, which `open_store` has opened for writing.

    `listener` receives rows; `wait_s`: seconds to wait for the models to consume finished load packages;
    `before_publish` is called with the path of each file before it appears. Raises CannotTellError if nothing is loaded or
    the models are not built, UsageError for options that do not fit each other or the place, OutsideError if the database
    or the place fails: the next export resumes.
    """
    started_s = time.monotonic()
    run = _Export(database, store, options or ExportOptions(), listener or Listener(), before_publish)
    report = run.run(wait_s)
    report.seconds = time.monotonic() - started_s
    return report


class _Export:
    """One export."""

    def __init__(
        self,
        database: Database,
        store: Store,
        options: ExportOptions,
        listener: Listener,
        before_publish: Callable[[str], None] | None,
    ) -> None:
        self.database, self.store, self.options, self.listener = database, store, options, listener
        self.raw, marts = _tables_of(database, RAW_DATABASE), _tables_of(database, MART_DATABASE)
        names = options.tables or ((TRADES.name,) if options.format == "tardis" else ())
        if options.format == "tardis" and names != (TRADES.name,):
            raise UsageError(
                "--format tardis is a format of trades; leave out --tables, or use parquet or csv."
            )
        self.planner = Planner(database, options.format, options.filters, marts)
        self.tables = [each for each in choose_tables(names, self.raw) if self.planner.applies(each)]
        scope = Scope(
            options.format,
            list(names) or [table.name for table in MARTS],
            sorted(options.filters.currencies),
            sorted(options.filters.kinds),
            iso(options.filters.since_ms) if options.filters.since_ms else None,
            iso(options.filters.until_ms) if options.filters.until_ms < END_MS else None,
        )
        self.place = Place(store, scope, before_publish or (lambda path: None))

    def run(self, wait_s: float) -> ExportReport:
        if not finished_packages(self.database, self.raw).count:
            raise CannotTellError("Nothing is loaded that could be exported; run: dlt pipeline run")
        self._require_loaded_names()
        self.place.read({table.name for table in self.tables})
        since_us = self.options.changed_since_us
        if since_us is not None and self.place.is_new:
            raise UsageError(f"{self.store} has no export yet; leave out --changed-since.")
        if self.place.has_begun:  # it may lack files of months that have not changed since
            since_us = None
        report = ExportReport(str(self.store), self.place.manifest)
        for _ in range(ROUNDS):
            # The manifest names what was there before the files were written, so that they have all of it.
            coverage = self._coverage()
            packages = finished_packages(self.database, self.raw)
            if any(not table.is_raw for table in self.tables):
                wait_for_models(self.database, self.raw, self.planner.marts, wait_s)
            self._write_changed(since_us, report)
            since_us = round(float(packages.newest) * 1_000_000)
            # A trade that moves between two months while their files are written may be in both, or in none.
            if packages == finished_packages(self.database, self.raw) or not have_trades_moved(
                self.database, self.planner.marts, since_us
            ):
                break
        else:
            raise RetriableError(
                "Trades keep moving between months while they are exported; try again later."
            )
        self._finish(packages, coverage, report)
        return report

    def _require_loaded_names(self) -> None:
        """Raise UsageError for a currency that neither a stream nor an underlying has, or an unknown kind.

        The export of a mistyped name would be empty, and proven.
        """
        filters = self.options.filters
        covered, _ = self._coverage()
        Streams(kinds=filters.kinds).require_kinds(each["kind"] for each in covered)
        known = {each["currency"] for each in covered}
        if "instrument_ends" in self.planner.marts:
            known |= set(self.database.column(STATEMENTS["currencies"]))
        for currency in filters.currencies:
            if known and currency not in known:
                raise UsageError(
                    f"--currency {currency!r} is not loaded; loaded are {', '.join(sorted(known))}."
                )

    def _write_changed(self, since_us: int | None, report: ExportReport) -> None:
        """Write the parts whose rows have changed, and delete the files of parts that are gone."""
        changed, retained = list[Part](), set[str]()
        for table in self.tables:
            months = self.planner.months(table)
            if since_us is not None and months is not None and self.place.files:
                months, untouched = self._changed_months(table, months, since_us)
                retained |= {path for path in self.place.files if self._month_of(path, table) in untouched}
            dropped = self.planner.dropped_months(table)
            retained |= {path for path in self.place.files if self._month_of(path, table) in dropped}
            for part in self.planner.parts(table, months):
                written = self.place.files.get(part.path)
                if written and (written[0].fingerprint == part.fingerprint or part.path in retained):
                    retained.add(part.path)
                else:
                    changed.append(part)
        gone = self.place.files.keys() - retained - {part.path for part in changed}
        report.unchanged = len(retained)
        if changed or gone:
            self.place.begin()
        self.listener.start(sum(part.rows for part in changed), "rows")
        for path in sorted(gone):
            self.place.delete(path)
            report.deleted += 1
        for part in changed:
            rows = self._write_part(part)
            report.written += 1
            report.rows_written += rows

    def _changed_months(
        self, table: ExportTable, months: Sequence[int], since_us: int
    ) -> tuple[list[int], set[int]]:
        """Months to plan again, and those with files that have no new version of a trade since."""
        if table.is_raw:
            return list(months), set()
        recent = set(self.database.column(STATEMENTS["changed_months"], {"since_us": since_us}, CONSISTENT))
        recent |= {month_before(month) for month in recent}  # a week may begin there
        with_files = {self._month_of(path, table) for path in self.place.files}
        changed = [month for month in months if month in recent or month not in with_files]
        return changed, {month for month in with_files if month and month not in changed}

    def _month_of(self, path: str, table: ExportTable) -> int | None:
        """Month of a file of the table, None for a file of another one."""
        file = self.place.files[path][0]
        if file.table != table.name:
            return None
        text = file.partition.get("month") or file.partition.get("date", "")[:7]
        return int(text.replace("-", "")) if text else None

    def _write_part(self, part: Part) -> int:
        """Write one file until its rows are those that were planned, which may change meanwhile; return its rows."""
        has_seqs = part.table is TRADES and self.options.format != "tardis"
        for _ in range(ATTEMPTS):
            digest = self._stream(part)
            content = read_content(
                self.store.scratch_file(), is_parquet=self.options.format == "parquet", has_seqs=has_seqs
            )
            if content.rows == part.rows:
                break
            if not (current := self.planner.again(part)):
                return 0
            if current == part:
                raise FinalError(
                    f"ClickHouse sent {content.rows:,} rows for {part.path}, and counts {part.rows:,}; nothing was exported."
                )
            part = current
        else:
            raise RetriableError(
                f"The rows of {part.path} keep changing while they are exported; try again later."
            )
        file = self.place.publish(
            part.path, part.table.name, part.partition, content.rows, digest, part.fingerprint
        )
        files = [file]
        if has_seqs:
            runs = write_rows(self.store.scratch_file(), content.runs, RUN_COLUMNS)
            files.append(self.place.publish(seqs_path(part.path), SEQS, part.partition, runs))
        self.place.record(files)
        return content.rows

    def _stream(self, part: Part) -> str:
        """Write the server's own bytes to the scratch file, CSV compressed; return the SHA-256 of the file."""
        sql, parameters = self.planner.read(part)
        pieces = self.database.stream(sql, FORMATS[self.options.format], parameters, READ_SETTINGS)
        digest = hashlib.sha256()
        with self.store.scratch_file().open("wb") as file:
            for piece in pieces if self.options.format == "parquet" else _compressed(pieces):
                digest.update(piece)
                file.write(piece)
        self.listener.advance(part.rows)
        return digest.hexdigest()

    def _finish(
        self,
        packages: LoadPackages,
        coverage: tuple[list[dict[str, Any]], list[dict[str, Any]]],
        report: ExportReport,
    ) -> None:
        files = [file for path in sorted(self.place.files) for file in self.place.files[path]]
        if any(file.table == SEQS for file in files):
            filters = self.options.filters
            files.append(write_gaps(self.database, self.place, Streams(filters.currencies, filters.kinds)))
        report.manifest = Manifest(
            VERSION,
            iso(time.time() * 1000),
            self.place.scope,
            {"mode": self.database.settings.mode, "raw": RAW_DATABASE, "marts": MART_DATABASE},
            packages,
            *coverage,
            {table.name: self._summary(table) for table in self.tables},
            files,
        )
        self.place.finish(report.manifest)

    def _coverage(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Coverage of the trades, with spans, and of the series."""
        try:
            statuses = fetch_status(self.database)
        except CannotTellError:  # no time is covered
            return [], []
        trades = [
            {
                **status.to_json(),
                "absent": status.absent,
                "spans": [list(map(_iso, span)) for span in status.spans],
            }
            for status in statuses
        ]
        return trades, [status.to_json() for status in fetch_series_status(self.database)]

    def _summary(self, table: ExportTable) -> TableSummary:
        files = [files[0] for files in self.place.files.values() if files[0].table == table.name]
        rows = sum(file.rows for file in files)
        return TableSummary(rows, len(files), list(table.sort), self.planner.columns(table))


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes as gzip, without a time in its header."""
    gzip = zlib.compressobj(GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield gzip.compress(piece)
    yield gzip.flush()


def _tables_of(database: Database, name: str) -> Collection[str]:
    return set(
        database.column("select name from system.tables where database = {name:String}", {"name": name})
    )


def _iso(at: datetime) -> str:
    return iso(round(at.astimezone(UTC).timestamp() * 1000))
