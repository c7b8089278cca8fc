"""Plan a run from a few sample pages of each stream, and compare the plan with the run that follows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from extract.clickhouse.client import shared_client
from extract.clickhouse.disk import DiskUse, loaded_disk_use
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, deribit_config
from extract.deribit.streams import ANY, Stream
from extract.estimate.estimator import DISK_BYTES_PER_TRADE, Plan
from extract.estimate.probes import OnPage, StreamProbes
from extract.estimate.series import estimate_series
from extract.estimate.store import delete_plan, load_plan, save_plan
from extract.pipeline.load import loaded_state
from extract.pipeline.summary import RunSummary
from extract.process import gc_frozen
from extract.source.options import RunOptions, resolve_streams, resolve_times
from extract.source.source import require_same_exchange
from extract.sweep.state import StreamState
from extract.times import iso


def make_plan(options: RunOptions, on_page: OnPage = lambda stream, table: None) -> Plan:
    """Plan a run of `options` from sample pages, and save the plan for that run. Loads no trades, and may run beside a run.

    `on_page` receives the trades of each sample page, in PAGE_SCHEMA. Raises what `pipeline.run` raises.
    """
    settings = clickhouse_settings()
    config = deribit_config()
    shared_client(settings)  # a server that is not up is reported before anything is requested
    with gc_frozen(), DeribitClient(config) as client:
        state = loaded_state(settings)
        require_same_exchange(dict(state), client.exchange)
        plan = _Planner(client, config, options, settings, state.get("resources", {}), on_page).plan()
    save_plan(plan, plan_key(options))
    return plan


@dataclass(frozen=True)
class PlanComparison:
    """A plan and what its run took, where the summary does not have it: `disk_bytes` added to deribit_raw.trades."""

    plan: Plan
    disk_bytes: int


def run_and_compare(
    options: RunOptions, run: Callable[[], RunSummary]
) -> tuple[RunSummary, PlanComparison | None]:
    """Call `run`, which has to run `options`; the comparison is None without a saved plan, or if the run was stopped.

    A plan is deleted once its run is complete. An interrupted run leaves it, marked as partially run.
    """
    key = plan_key(options)
    plan = load_plan(key)
    if plan is None:
        return run(), None
    bytes_before = loaded_disk_use(clickhouse_settings()).bytes
    save_plan(replace(plan, partially_run=True), key)
    summary = run()
    if not summary.is_complete:
        return summary, None
    delete_plan(key)
    return summary, PlanComparison(plan, max(0, loaded_disk_use(clickhouse_settings()).bytes - bytes_before))


def plan_key(options: RunOptions) -> str:
    """Key of a saved plan: the same for options that select the same trades."""
    currencies = sorted({currency.upper() for currency in options.currencies})
    return json.dumps([options.since, options.until, currencies, sorted(set(options.kinds))])


@dataclass(frozen=True)
class _Planner:
    """Samples each stream, then adds what a run requests besides trades."""

    client: DeribitClient
    config: DeribitConfig
    options: RunOptions
    settings: ClickHouseSettings
    resources: dict[str, Any]
    on_page: OnPage

    def plan(self) -> Plan:
        started_s = time.monotonic()
        now_ms = self.client.now_ms()
        before = replace(self.client.stats)
        streams = resolve_streams(
            self.client,
            self.config,
            self.options,
            self.resources.get("trades", {}),
            known=self.resources.get("instruments", {}).get("known", {}),
            now_ms=now_ms,
        ).streams
        resolving = replace(
            before,
            requests=self.client.stats.requests - before.requests,
            bytes=self.client.stats.bytes - before.bytes,
        )
        since_ms, until_ms = resolve_times(self.options, now_ms)
        requests_before = self.client.stats.requests
        samples = [self._probes(stream, since_ms, until_ms or now_ms, now_ms) for stream in streams]
        plans = [each.run() for each in samples]
        list_bytes = resolving.bytes + self._expired_list_bytes(streams, resolving.bytes)
        series = estimate_series(self.client, self.config, streams, self.resources, now_ms)
        sample_requests = self.client.stats.requests - requests_before
        disk = loaded_disk_use(self.settings)
        trades = sum(each.trades for each in plans)
        windows = max(1, math.ceil(trades / self.config.window_trades))
        requests = sum(each.requests for each in plans) + series.requests
        requests += resolving.requests + self._other_requests(streams, windows, is_open=until_ms is None)
        planned_at = iso(now_ms // 1000 * 1000)
        return Plan(
            streams=plans,
            trades=trades,
            requests=requests,
            seconds=requests / self.config.requests_per_second,
            wire_bytes=sum(each.bytes for each in plans) + list_bytes + round(series.bytes),
            disk_bytes=round(trades * (disk.bytes / disk.rows if disk.rows else DISK_BYTES_PER_TRADE)),
            planned_at=planned_at,
            inputs=[
                f"Sampled at {planned_at} with {sample_requests:,} requests in {time.monotonic() - started_s:.1f} s.",
                "Trades are counted where one page holds all, else estimated from trade_seq, or from density (rough).",
                *self._inputs(samples, disk),
                f"Series besides trades: {series.requests:,} of the requests, estimated from one answer for each key.",
            ],
        )

    def _probes(self, stream: Stream, since_ms: int | None, until_ms: int, now_ms: int) -> StreamProbes:
        state = StreamState.from_json(self.resources.get("trades", {}).get(str(stream), {}))
        spans = state.wanted(since_ms, until_ms)
        known = sum(
            span.start_ms <= trade.at_ms <= span.end_ms for trade in state.recent.values() for span in spans
        )
        return StreamProbes(self.client, stream, spans, now_ms, known, self.on_page)

    def _expired_list_bytes(self, streams: Sequence[Stream], resolved_bytes: int) -> int:
        """Bytes of the lists of expired instruments that are loaded, by those that were read to find the streams.

        These are, besides the list of live instruments, one for each currency and, by default, the same by kind.
        """
        if not self._unlisted(streams):
            return 0
        before = self.client.stats.bytes
        self.client.result(self.client.live, "get_instruments", {"currency": ANY})
        read_bytes = resolved_bytes - (self.client.stats.bytes - before)
        is_limited = self.options.currencies or self.config.currencies
        return max(0, read_bytes if is_limited else read_bytes // 2)

    def _other_requests(self, streams: Sequence[Stream], windows: int, *, is_open: bool) -> int:
        """Requests for the time, expired instruments, the end of history, and what each further window reads again."""
        # The newest trade of each currency and, where nothing is covered, of each stream.
        stored = self.resources.get("trades", {})
        ends = len({stream.currency for stream in streams}) + sum(
            not stored.get(str(each)) for each in streams
        )
        # The time, a probe, and the newest minute of finished streams.
        reread = 2 + (len(streams) / 2 if is_open else 0)
        return 1 + ends + len(self._unlisted(streams)) + round((windows - 1) * reread)

    def _unlisted(self, streams: Sequence[Stream]) -> set[str]:
        """Currencies whose expired instruments have not been listed by any run."""
        known = self.resources.get("instruments", {}).get("known", {})
        return {stream.currency for stream in streams if str(stream) not in known}

    def _inputs(self, samples: Sequence[StreamProbes], disk: DiskUse) -> Iterator[str]:
        """One sentence for each figure that the plan is based on."""
        rows, size = sum(each.rows for each in samples), sum(each.bytes for each in samples)
        yield f"Rate limit: {self.config.requests_per_second:g} requests a second, of [sources.deribit]."
        if rows:
            yield f"Over the wire: {size / rows:,.0f} bytes a trade, measured on {rows:,} sampled trades."
        if disk.rows:
            per_trade = disk.bytes / disk.rows
            yield f"On disk: {per_trade:,.1f} bytes a trade, of {disk.rows:,} in deribit_raw.trades."
        else:
            yield (
                f"On disk: {DISK_BYTES_PER_TRADE:g} bytes a trade, a default, because no trades are loaded to measure."
            )
