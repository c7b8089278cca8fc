"""Load one month, compare it with its plan, and extrapolate to larger backfills."""

from __future__ import annotations

import calendar
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from extract.cost.measure.database_usage import MIN_TRADES_PROCESSED
from extract.cost.plan.estimate import Backfill, estimate
from extract.cost.plan.inputs import Inputs
from extract.cost.plan.plan import DEFAULT_SCOPE, RAW_BYTES, SCOPES, put_config
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.errors import UsageError
from extract.estimate.plan import PlanComparison, make_plan, run_and_compare
from extract.estimate.store import save_measurement
from extract.pipeline.run import RunListener, run
from extract.pipeline.summary import RunSummary
from extract.source.options import RunOptions

YEAR = "a year of such months"


@dataclass(frozen=True)
class ResourceUsage:
    """Resources that the backfill of a month used.

    `cpu_seconds` includes the page workers. `rest_bytes` were added to deribit_raw.trades. `requests_per_second` is the
    configured limit.
    """

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

    @property
    def is_large(self) -> bool:
        """Whether requests and speed are representative, and not mostly those of a run's start."""
        return self.trades >= MIN_TRADES_PROCESSED


@dataclass(frozen=True)
class MonthBackfill:
    """`comparison` has the plan; it is None if the run was stopped. `extrapolated` is empty if no trades were loaded."""

    used: ResourceUsage
    summary: RunSummary
    comparison: PlanComparison | None
    extrapolated: dict[str, Backfill]


def poc_backfill(
    month: date,
    currencies: Sequence[str] = (),
    kinds: Sequence[str] = (),
    listener: RunListener | None = None,
) -> MonthBackfill:
    """Plan and run the month that begins with the day `month`, and save its resource usage in `.tape/backfill.json`.

    Raises UsageError for a month that is not over, and what `make_plan` and `run` raise.
    """
    config = deribit_config()
    with DeribitClient(config) as client:
        exchange = client.exchange
        first, last = _first_and_last_day(month, client.now_ms())
    options = RunOptions(str(first), f"{last}T23:59:59.999Z", currencies, kinds)
    make_plan(options)
    cpu_seconds_before = cpu_seconds()
    summary, comparison = run_and_compare(options, lambda: run(options, listener))
    used = ResourceUsage(
        f"{first:%Y-%m}",
        exchange,
        summary.total + summary.repaired,
        summary.requests,
        summary.retries,
        round(summary.seconds, 3),
        round(cpu_seconds() - cpu_seconds_before, 3),
        summary.wire_bytes,
        comparison.disk_bytes if comparison else 0,
        config.requests_per_second,
    )
    if not used.trades:
        return MonthBackfill(used, summary, comparison, {})
    save_measurement("backfill", vars(used))
    return MonthBackfill(
        used, summary, comparison, {name: _extrapolate(used, name) for name in (YEAR, *SCOPES)}
    )


def _first_and_last_day(first: date, now_ms: int) -> tuple[date, date]:
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    if last >= today:
        complete = today.replace(day=1) - timedelta(1)
        raise UsageError(
            f"--month {first:%Y-%m} is not over yet; the last complete month is {complete:%Y-%m}."
        )
    return first, last


def cpu_seconds() -> float:
    """Processor seconds of this process and of its children that have ended, as page workers have after a run."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _extrapolate(used: ResourceUsage, name: str) -> Backfill:
    """Backfill of a year of such months, or of a scope of the exchange, at this month's figures per trade.

    Requests and speed of a small month are assumed.
    """
    inputs = Inputs()
    inputs.put_scope(DEFAULT_SCOPE if name == YEAR else name)
    put_config(inputs)
    source = f"measured: tape poc-backfill, {used.month}"
    if name == YEAR:
        inputs.put("trades", used.trades * 12, "trades", source)
    ratio = inputs["trades"] / used.trades
    inputs.put("requests", round(ratio * used.requests) if used.is_large else 0, "requests", source)
    inputs.put("wire_bytes", round(ratio * used.wire_bytes), "bytes", source)
    if used.rest_bytes:
        inputs.put(RAW_BYTES, used.rest_bytes / used.trades, "bytes a trade", source)
    if used.is_large:
        rate = round(used.trades / used.seconds)
        inputs.put("fetch_trades_per_second", rate, "trades a second", source)
    return estimate(inputs).backfill
