"""Request the rows again that series besides trades lack, and load them into the tables of a run."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from extract.coverage.gaps import Scope
from extract.coverage.series import (
    SeriesRowsGap,
    SeriesStream,
    UnprovenSeries,
    find_series_gaps,
    find_unproven_series,
)
from extract.coverage.session import CoverageSession
from extract.errors import TapeError
from extract.pipeline.load import source_state
from extract.source.series import ALL_NAMES, SeriesFeed, series_resolutions
from extract.source.source import SERIES_KEYS, series_of

NO_LIMIT = 10**9


@dataclass
class SeriesRepairReport:
    """Result of a repair: `wanted` rows were missing of `keys`; `remaining` still are and are not known to be absent."""

    keys: int = 0
    wanted: int = 0
    fetched: int = 0
    remaining: list[SeriesRowsGap] = field(default_factory=list)
    unproven: list[UnprovenSeries] = field(default_factory=list)
    set_aside: dict[str, TapeError] = field(default_factory=dict)


def repair_series(
    session: CoverageSession, scope: Scope, *, retry_absent: bool = False
) -> SeriesRepairReport:
    """Request what is missing of the series of `scope` again, in one load package; with `retry_absent` all of it.

    Nothing is requested if nothing is missing. A key whose answers cannot be used is set aside.
    """
    gaps = find_series_gaps(session.database, scope)
    wanted = [gap for gap in gaps if retry_absent or not gap.known_absent]
    unproven = find_unproven_series(session.database, scope)
    keys = {gap.stream for gap in wanted} | {each.stream for each in unproven}
    report = SeriesRepairReport(len(keys), sum(gap.missing for gap in wanted))
    if not keys:
        return report
    feed = _open_feed(session, sorted(keys, key=str))
    session.pipeline.run(series_of(feed))
    report.fetched = feed.report.rows.total()
    report.set_aside = dict(feed.report.set_aside)
    report.remaining = [gap for gap in find_series_gaps(session.database, scope) if not gap.known_absent]
    report.unproven = find_unproven_series(session.database, scope)
    return report


def _open_feed(session: CoverageSession, keys: Sequence[SeriesStream]) -> SeriesFeed:
    """A feed of these keys alone, which follows the stored state."""
    state = source_state(session.pipeline.pipeline)
    names = [name for name in ALL_NAMES if any(each.series == name for each in keys)]
    listings = deepcopy(state.get(SERIES_KEYS, {}))
    return SeriesFeed(
        session.client,
        list(listings),
        names,
        series_resolutions(session.config),
        session.client.now_ms(),
        states={name: deepcopy(state.get("resources", {}).get(name, {})) for name in names},
        listings=listings,
        max_rows=NO_LIMIT,
        only={(each.series, each.key) for each in keys},
    )
