"""A bounded backfill that is planned, run, remembered and extrapolated: plan beside fact."""

from __future__ import annotations

import calendar
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from extract.cost.measure.database_usage import LEAST_WORK
from extract.cost.plan.estimate import Backfill, estimate
from extract.cost.plan.inputs import Inputs
from extract.cost.plan.plan import RAW_BYTES, SCOPES, remember
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.errors import UsageError
from extract.estimate.plan import PlanComparison, make_plan, run_and_compare
from extract.pipeline.options import RunOptions
from extract.pipeline.run import RunListener, RunSummary, run

MONTHS_A_YEAR = 12


@dataclass(frozen=True)
class ResourceUsage:
    """What a month's backfill took. `cpu_seconds` with the page workers', `rest_bytes` more in deribit_raw.trades."""

    month: str
    exchange: str
    trades: int
    requests: int
    retries: int
    seconds: float
    cpu_seconds: float
    wire_bytes: int
    rest_bytes: int
    requests_per_second: float
    """What was allowed."""

    @property
    def is_large(self) -> bool:
        """Whether speed and requests tell of more than a run's beginning."""
        return self.trades >= LEAST_WORK


@dataclass(frozen=True)
class MonthBackfill:
    """`comparison` has the plan; it is None if the run was stopped. `extrapolated` is empty if no trades were loaded."""

    used: ResourceUsage
    summary: RunSummary
    comparison: PlanComparison | None
    extrapolated: dict[str, Backfill]


def poc_backfill(
    month: str,
    currencies: Sequence[str] = (),
    kinds: Sequence[str] = (),
    listener: RunListener | None = None,
) -> MonthBackfill:
    """Plans the month, runs it, and keeps what it used in `.tape/backfill.json`.

    Raises UsageError for a month that is not over, and what `make_plan` and `run` raise.
    """
    config = deribit_config()
    with DeribitClient(config) as client:
        exchange = client.exchange
        first, last = _month(month, client.now_ms())
    options = RunOptions(str(first), f"{last}T23:59:59.999Z", currencies, kinds)
    make_plan(options)
    before = _cpu_seconds()
    summary, comparison = run_and_compare(options, lambda: run(options, listener))
    used = ResourceUsage(
        month,
        exchange,
        summary.total + summary.repaired,
        summary.requests,
        summary.retries,
        round(summary.seconds, 3),
        round(_cpu_seconds() - before, 3),
        summary.wire_bytes,
        comparison.disk_bytes if comparison else 0,
        config.requests_per_second,
    )
    if used.trades:
        remember("backfill", vars(used))
    return MonthBackfill(
        used, summary, comparison, extrapolate(used, config.page_size) if used.trades else {}
    )


def _month(text: str, now_ms: int) -> tuple[date, date]:
    """First and last day; by the exchange's clock it has to be over."""
    try:
        first = datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        raise UsageError(f"--month {text!r} is no month; write it like 2026-10.") from None
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    if last >= today:
        whole = today.replace(day=1) - timedelta(1)
        raise UsageError(f"--month {text} is not over yet; the last whole month is {whole:%Y-%m}.")
    return first, last


def _cpu_seconds() -> float:
    """With those of processes that have ended: the page workers have when a run is over."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def extrapolate(used: ResourceUsage, page_size: int) -> dict[str, Backfill]:
    """A year of such months, and the volumes that are known of the exchange, at this month's figures for each trade.

    Requests and speed of fewer than LEAST_WORK trades are mostly those of a run's beginning, so they are assumed then.
    """
    found = {}
    for name, scope in {"a year of such months": None, **{scope: scope for scope in SCOPES}}.items():
        inputs = Inputs()
        inputs.put_scope(scope or SCOPES[0])
        source = f"measured: tape poc-backfill, {used.month}"
        if scope is None:
            inputs.put("trades", used.trades * MONTHS_A_YEAR, "trades", source)
        times = inputs["trades"] / used.trades
        inputs.put("requests", round(times * used.requests) if used.is_large else 0, "requests", source)
        inputs.put("requests_per_second", used.requests_per_second, "requests a second", "[sources.deribit]")
        inputs.put("page_size", page_size, "trades a page", "[sources.deribit]")
        inputs.put("wire_bytes", round(times * used.wire_bytes), "bytes", source)
        if used.rest_bytes:
            inputs.put(RAW_BYTES, used.rest_bytes / used.trades, "bytes a trade", source)
        if used.is_large:
            rate = round(used.trades / used.seconds)
            inputs.put("fetch_trades_per_second", rate, "trades a second", source)
        found[name] = estimate(inputs).backfill
    return found
