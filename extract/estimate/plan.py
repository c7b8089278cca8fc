"""`dlt pipeline run --plan`: what a run would take, from a few probes of each stream; loads nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from extract.clickhouse.client import shared_client
from extract.clickhouse.disk import DiskUse, disk_use
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, deribit_config
from extract.deribit.streams import Stream
from extract.estimate.estimator import DISK_BYTES_PER_TRADE, Plan, save_plan
from extract.estimate.probes import OnPage, Probed, StreamProbes
from extract.pipeline.load import open_pipeline, source_state, unwrap_dlt_errors
from extract.pipeline.run import RunOptions, wanted_streams, wanted_time
from extract.pipeline.session import run_lock
from extract.process import gc_frozen
from extract.source.source import require_same_exchange
from extract.sweep.state import StreamState
from extract.times import iso


def make_plan(options: RunOptions, on_page: OnPage = lambda stream, table: None) -> Plan:
    """Asks the exchange and keeps the plan until a run of the same question. Raises what `pipeline.run` raises.

    `on_page` is shown the trades of each probe, in PAGE_SCHEMA.
    """
    settings = clickhouse_settings()
    config = deribit_config()
    shared_client(settings)  # a server that is not up is reported before anything is requested
    with run_lock(), gc_frozen(), DeribitClient(config) as client:
        pipeline = open_pipeline(settings)
        with unwrap_dlt_errors():
            pipeline.sync_destination()
        plan = _Planner(client, config, options, settings, source_state(pipeline), on_page).plan()
    save_plan(plan, options.plan_key)
    return plan


class _Planner:
    """Probes stream by stream, and what comes on top of the streams."""

    def __init__(
        self,
        client: DeribitClient,
        config: DeribitConfig,
        options: RunOptions,
        settings: ClickHouseSettings,
        state: dict[str, Any],
        on_page: OnPage,
    ) -> None:
        require_same_exchange(dict(state), client.exchange)
        self._client = client
        self._config = config
        self._options = options
        self._settings = settings
        self._on_page = on_page
        self._resources = state.get("resources", {})

    def plan(self) -> Plan:
        started_s = time.monotonic()
        now_ms = self._client.now_ms()
        streams = wanted_streams(self._client, self._config, self._options)
        since_ms, until_ms = wanted_time(self._options, now_ms)
        before = self._client.stats.requests
        probed = [self._probe(stream, since_ms, until_ms or now_ms, now_ms) for stream in streams]
        listed = self._listed_bytes(streams)
        asked = self._client.stats.requests - before
        disk = disk_use(self._settings)
        per_trade = disk.bytes / disk.rows if disk.rows else DISK_BYTES_PER_TRADE
        trades = sum(each.plan.trades for each in probed)
        windows = max(1, math.ceil(trades / self._config.window_trades))
        requests = sum(each.plan.requests for each in probed)
        requests += self._overhead(streams, windows, is_open=until_ms is None)
        return Plan(
            streams=[each.plan for each in probed],
            trades=trades,
            requests=requests,
            seconds=requests / self._config.requests_per_second,
            wire_bytes=sum(each.plan.bytes for each in probed) + listed * windows,
            disk_bytes=round(trades * per_trade),
            planned_at=iso(now_ms // 1000 * 1000),
            inputs=[
                f"Asked at {iso(now_ms // 1000 * 1000)} in {asked:,} requests and "
                f"{time.monotonic() - started_s:.1f} s.",
                "Counted where a page holds all, else reckoned by trade_seq; where that is rough, by density.",
                *self._inputs(probed, disk),
                *self._left_out(streams),
            ],
        )

    def _probe(self, stream: Stream, since_ms: int | None, until_ms: int, now_ms: int) -> Probed:
        kept = self._resources.get("trades", {}).get(str(stream), {})
        state = StreamState.from_json(kept)
        spans = state.wanted(since_ms, until_ms)
        known = sum(
            span.start_ms <= seen.at_ms <= span.end_ms for seen in state.recent.values() for span in spans
        )
        return StreamProbes(self._client, stream, spans, now_ms, known, self._on_page).run()

    def _listed_bytes(self, streams: Sequence[Stream]) -> int:
        """Bytes of the lists of live instruments, which each window reads."""
        before = self._client.stats.bytes
        for currency in dict.fromkeys(stream.currency for stream in streams):
            self._client.result(self._client.live, "get_instruments", {"currency": currency})
        return self._client.stats.bytes - before

    def _overhead(self, streams: Sequence[Stream], windows: int, *, is_open: bool) -> int:
        """Requests beside those for trades: clock, currencies, instruments, and what each further window reads again."""
        currencies = {stream.currency for stream in streams}
        expired = self._unlisted(streams)
        again = 1 + (len(streams) / 2 if is_open else 0)  # a probe, and the newest minute of what is done
        return 2 + len(expired) + windows * (1 + len(currencies)) + round((windows - 1) * again)

    def _unlisted(self, streams: Sequence[Stream]) -> set[str]:
        """Currencies whose expired instruments the run will read."""
        known = self._resources.get("instruments", {}).get("known", {})
        return {stream.currency for stream in streams if str(stream) not in known}

    def _left_out(self, streams: Sequence[Stream]) -> list[str]:
        """Known only once they have been read, which is too much for a plan."""
        unlisted = sorted(self._unlisted(streams))
        names = ", ".join(unlisted)
        return (
            [f"The lists of expired instruments of {names}, read once, come on top of the wire."]
            if unlisted
            else []
        )

    def _inputs(self, probed: Sequence[Probed], disk: DiskUse) -> list[str]:
        rows, size = sum(each.rows for each in probed), sum(each.bytes for each in probed)
        found = [f"Rate limit: {self._config.requests_per_second:g} requests a second, of [sources.deribit]."]
        if rows:
            found.append(
                f"Over the wire: {size / rows:,.0f} bytes a trade, measured on {rows:,} of the probes."
            )
        if disk.rows:
            found.append(
                f"On disk: {disk.bytes / disk.rows:,.1f} bytes a trade, of {disk.rows:,} in deribit_raw.trades."
            )
        else:
            found.append(
                f"On disk: {DISK_BYTES_PER_TRADE:g} bytes a trade, a default: none are loaded that could be measured."
            )
        return found
