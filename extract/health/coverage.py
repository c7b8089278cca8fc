"""Checks of what is loaded: lag of covered time, missing trades, missing and late rows of series."""

from __future__ import annotations

from collections.abc import Sequence

from extract.clickhouse.client import Database
from extract.clickhouse.finished import describe_unfinished
from extract.coverage.gaps import Scope, find_contradictions, find_unnumbered, find_unproven
from extract.coverage.series import SeriesStatus, find_unproven_series
from extract.coverage.status import StreamStatus, fetch_status
from extract.errors import CannotTellError
from extract.health.measurement import Measurement
from extract.times import duration


def covered_streams(database: Database, scope: Scope) -> list[StreamStatus]:
    """Status of the streams of `scope`. Raises CannotTellError where no time is covered."""
    streams = [each for each in fetch_status(database) if scope.includes(each.stream)]
    if not streams:
        raise CannotTellError(f"No time is covered for these streams; run `{scope.command}`.")
    return streams


def describe_unproven(database: Database, scope: Scope) -> list[str]:
    """Sentences about time that is not proven, and about trades that contradict others."""
    finders = (find_unproven, find_contradictions, find_unnumbered)
    return [str(each) for find in finders for each in find(database, scope)]


def measure_raw(streams: Sequence[StreamStatus]) -> Measurement:
    """Lag of the stream whose covered time ends first."""
    oldest = max(streams, key=lambda each: each.lag_seconds)
    lag_s = oldest.lag_seconds
    return Measurement(lag_s, f"covered time of {oldest.stream} ends {duration(lag_s)} ago")


def measure_gaps(
    streams: Sequence[StreamStatus], unfinished: Sequence[str], unproven: Sequence[str]
) -> Measurement:
    """Missing trades. Time that is not proven, or trades with the numbers of others, alarm."""
    missing = sum(each.missing for each in streams)
    nothing = "nothing else is missing" if unproven else "nothing is missing"
    text = f"{missing:,} trades are missing; `tape repair` fetches them" if missing else nothing
    if provisional := sum(each.provisional for each in streams):
        text += f", apart from {provisional:,} absent trades that are requested again before that is certain"
    sentences = [text, *unproven[:1], *([describe_unfinished(unfinished)] if unfinished else [])]
    text = ". ".join(each.rstrip(".") for each in sentences) + "." * (len(sentences) > 1)
    return Measurement(missing, text, is_broken=bool(unproven))


def measure_series(database: Database, scope: Scope, series: Sequence[SeriesStatus]) -> Measurement | None:
    """Missing rows of series, and one for each key that a run set aside."""
    unproven = find_unproven_series(database, scope)
    if not series and not unproven:
        return None
    missing = sum(each.missing for each in series)
    if not missing and not unproven:
        return Measurement(0, f"nothing is missing of {len(series):,} keys of series")
    texts = [f"{missing:,} rows of series are missing; `tape repair` requests them again"] * bool(missing)
    return Measurement(missing + len(unproven), ". ".join([*texts, *map(str, unproven[:1])]))


def measure_series_lag(series: Sequence[SeriesStatus]) -> Measurement | None:
    """Age of the newest row of the series that is the furthest behind; of its keys, the newest counts.

    A key may end for good, as that of a perpetual that is no longer traded.
    """
    newest: dict[str, SeriesStatus] = {}
    for each in series:
        name = each.stream.series
        if name not in newest or each.lag_seconds < newest[name].lag_seconds:
            newest[name] = each
    if not newest:
        return None
    oldest = max(newest.values(), key=lambda each: each.lag_seconds)
    lag_s = oldest.lag_seconds
    return Measurement(lag_s, f"the newest row of {oldest.stream.series} is {duration(lag_s)} old")
