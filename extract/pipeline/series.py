"""Load the series besides trades that can have something new."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.streams import Stream
from extract.pipeline.load import source_state
from extract.pipeline.session import PipelineSession
from extract.pipeline.stop import StopSignal
from extract.pipeline.summary import RunSummary
from extract.source.series import SeriesFeed, resolve_series
from extract.source.source import SERIES_KEYS, series_of


def load_series(
    session: PipelineSession,
    client: DeribitClient,
    config: DeribitConfig,
    streams: Sequence[Stream],
    now_ms: int,
    stop: StopSignal,
    summary: RunSummary,
    *,
    in_turns: bool = False,
) -> None:
    """Load what is new of every series that belongs to `streams`, and add it to `summary`.

    Without anything due, this sends no request and loads no package. `in_turns`: load one package, as new trades wait for
    it; the next turn continues. Raises UsageError for a series that does not exist.
    """
    started_s = time.monotonic()
    names, currencies, resolutions = resolve_series(config, streams)
    is_complete = False
    while names and not is_complete and not stop.is_requested and not client.is_cancelled:
        state = source_state(session.pipeline)
        resources = state.get("resources", {})
        feed = SeriesFeed(
            client,
            currencies,
            names,
            resolutions,
            now_ms,
            states={name: deepcopy(resources.get(name, {})) for name in names},
            listings=deepcopy(state.get(SERIES_KEYS, {})),
            should_stop=lambda: stop.is_requested,
            indexes_of=session.tables.indexes,
            in_turns=in_turns,
        )
        if not feed.is_due:
            return
        session.run(series_of(feed))
        summary.add_series(feed.report)
        is_complete = feed.report.is_complete or in_turns
    summary.seconds += time.monotonic() - started_s
    if not is_complete and names:
        summary.stopped = summary.stopped or stop.reason
